//! Kernel sources, embedded in the program, and their compilation, cached on disk.

mod cache;
mod host_cxx;
mod nvdisasm;
mod nvrtc;
mod toolkit;
mod usage;

pub use cache::cache_folder;
pub use host_cxx::{HostCxx, Mode};
pub use nvdisasm::{Counts, Nvdisasm};
pub use nvrtc::{Cubin, Nvrtc, Wanted};
pub use usage::{CompileLog, Usage};

/// A source file. Its name is its path in the repository, so messages point there.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Path from the repository's root, such as `kernels/gemm/forward_1_thread_per_value.cu`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

impl Source {
    /// This kernel and the headers that it includes, directly or not, sorted by name.
    pub fn with_headers(&self) -> Vec<Source> {
        let mut found = vec![*self];
        let mut next = 0;
        while let Some(source) = found.get(next).copied() {
            let names =
                source.text.lines().filter_map(|line| line.trim_start().strip_prefix("#include \"")?.split('"').next());
            for name in names {
                let header = HEADERS.iter().find(|header| header.name.strip_prefix("kernels/") == Some(name));
                found.extend(header.filter(|header| found.iter().all(|known| known.name != header.name)).copied());
            }
            next += 1;
        }
        found.sort_by_key(|source| source.name);
        found
    }

    /// Hash of this kernel and its headers, as 32 hexadecimal digits.
    pub fn hash(&self) -> String {
        cache::key(&[], &self.with_headers())
    }
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
    fn a_hash_covers_the_headers_that_are_included_and_no_others() {
        let names = |text| {
            let found = Source { name: "kernels/a.cu", text }.with_headers();
            found.iter().map(|source| source.name.rsplit('/').next().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("int x;"), "a.cu");
        assert_eq!(names("#include \"include/activation.cuh\"\n"), "a.cu activation.cuh types.cuh");
        assert!(names("#include \"include/tile.cuh\"\n").contains("barrier.cuh copy_async.cuh mma.cuh"));
    }
}
