//! Kernel sources, embedded in the program, and their compilation, cached on disk.

mod host_cxx;

pub use host_cxx::{HostCxx, Mode};

use sha2::{Digest, Sha256};

/// A source file. Its name is its path in the repository, so messages point there.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Path from the repository's root, such as `kernels/gemm/forward_1_thread_per_value.cu`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[$(Source {
            name: concat!("kernels/", $path),
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $path)),
        }),*]
    };
}

/// The headers that kernels include.
pub const HEADERS: &[Source] = sources![
    "include/activation.cuh",
    "include/attention.cuh",
    "include/attention_keys.cuh",
    "include/barrier.cuh",
    "include/copy_async.cuh",
    "include/mma.cuh",
    "include/reduce.cuh",
    "include/tile.cuh",
    "include/types.cuh",
    "include/vec.cuh",
];

/// The kernels, one file a rung.
pub const KERNELS: &[Source] = sources![
    "attention/forward_1_warp_per_row.cu",
    "attention/forward_2_flash.cu",
    "attention/positive_gradient_1_thread_per_value.cu",
    "attention/positive_gradient_2_key_tiles.cu",
    "attention/reverse_1_block_per_head.cu",
    "attention/reverse_2_flash.cu",
    "attention/row_1_thread_per_value.cu",
    "attention/row_2_key_tiles.cu",
    "gemm/forward_1_thread_per_value.cu",
    "gemm/forward_2_mma_stages.cu",
    "gemm/reverse_1_thread_per_value.cu",
    "gemm/reverse_2_mma_stages.cu",
    "layer_norm/forward_1_thread_per_row.cu",
    "layer_norm/forward_2_warp_per_row.cu",
    "layer_norm/reverse_1_thread_per_row.cu",
    "layer_norm/reverse_2_warp_per_row.cu",
];

/// The emulator's header for kernels, and its runtime.
const EMULATOR: &[Source] = sources![
    "emulator/device.h",
    "emulator/access.cpp",
    "emulator/api.h",
    "emulator/block.h",
    "emulator/collectives.cpp",
    "emulator/copies.cpp",
    "emulator/counters.cpp",
    "emulator/counters.h",
    "emulator/fibre.cpp",
    "emulator/fibre.h",
    "emulator/hooks.cpp",
    "emulator/instructions.h",
    "emulator/launch.cpp",
    "emulator/matrix.cpp",
    "emulator/memory.cpp",
    "emulator/memory.h",
    "emulator/races.cpp",
    "emulator/races.h",
    "emulator/report.cpp",
    "emulator/report.h",
    "emulator/schedule.cpp",
];

/// The kernel file of an operation's rung, such as (`gemm`, `forward_2`).
pub fn kernel(operation: &str, rung: &str) -> Option<&'static Source> {
    let start = format!("kernels/{operation}/{rung}_");
    KERNELS.iter().find(|source| source.name.starts_with(&start))
}

/// Hash of everything that decides what a compilation gives, as 32 hexadecimal digits.
fn key(parts: &[&str], sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    let texts = sources.iter().flat_map(|source| [source.name, source.text]);
    for part in parts.iter().copied().chain(texts) {
        // The length keeps neighbouring parts apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_kernels_folder_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        for folder in fs::read_dir(root.join("kernels")).unwrap().map(|entry| entry.unwrap().path()) {
            for file in fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                found.insert(file.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
        let embedded = [HEADERS, KERNELS, EMULATOR].concat().iter().map(|source| source.name.to_owned()).collect();
        assert_eq!(found, embedded);
    }

    #[test]
    fn kernels_hold_no_instructions_of_their_own_and_include_only_our_headers() {
        for source in KERNELS {
            assert!(!source.text.contains("asm"), "{}", source.name);
            for line in source.text.lines().filter(|line| line.starts_with("#include")) {
                assert!(line.starts_with("#include \"include/"), "{}: {line}", source.name);
            }
        }
    }

    #[test]
    fn a_key_tells_every_part_apart() {
        let source = |text| Source { name: "a.cu", text };
        let keys = [
            key(&["ab", "c"], &[source("x")]),
            key(&["a", "bc"], &[source("x")]),
            key(&["ab", "c"], &[source("y")]),
            key(&["ab", "c"], &[source("x"), source("x")]),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }
}
