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
    "include/attention.cuh",
    "include/attention_keys.cuh",
    "include/attention_queries.cuh",
    "include/attention_sums.cuh",
    "include/barrier.cuh",
    "include/copy_async.cuh",
    "include/exact.cuh",
    "include/mma.cuh",
    "include/patch.cuh",
    "include/reduce.cuh",
    "include/rows.cuh",
    "include/sae.cuh",
    "include/sae_rows.cuh",
    "include/sae_select.cuh",
    "include/scan.cuh",
    "include/tile.cuh",
    "include/tile_f32.cuh",
    "include/tma.cuh",
    "include/types.cuh",
    "include/vec.cuh",
    "include/warpgroup_tile.cuh",
    "include/wgmma.cuh",
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
    "gemm/forward_3_tma_wgmma.cu",
    "gemm/reverse_1_thread_per_value.cu",
    "gemm/reverse_2_mma_stages.cu",
    "gemm/reverse_3_tma_wgmma.cu",
    "head/cosine_1_thread_per_value.cu",
    "head/cosine_2_warp_per_value.cu",
    "head/mean_tokens_1_thread_per_value.cu",
    "head/mean_tokens_2_block_per_columns.cu",
    "head/mean_tokens_reverse_1_thread_per_value.cu",
    "head/mean_tokens_reverse_2_vector_per_thread.cu",
    "head/score_reverse_1_thread_per_value.cu",
    "head/score_reverse_2_block_per_row.cu",
    "heatmap/colour_1_thread_per_pixel.cu",
    "heatmap/grad_cam_1_block_per_map.cu",
    "heatmap/grad_cam_2_warp_per_patch.cu",
    "heatmap/grad_eclip_1_block_per_map.cu",
    "heatmap/grad_eclip_2_warp_per_patch.cu",
    "heatmap/upsample_1_thread_per_pixel.cu",
    "layer_norm/forward_1_thread_per_row.cu",
    "layer_norm/forward_2_warp_per_row.cu",
    "layer_norm/reverse_1_thread_per_row.cu",
    "layer_norm/reverse_2_warp_per_row.cu",
    "patch_embed/patches_1_thread_per_value.cu",
    "patch_embed/patches_2_vector_per_thread.cu",
    "patch_embed/patches_u8_1_thread_per_value.cu",
    "patch_embed/patches_u8_2_vector_per_thread.cu",
    "patch_embed/positions_1_thread_per_value.cu",
    "patch_embed/positions_2_vector_per_thread.cu",
    "patch_embed/reverse_1_thread_per_value.cu",
    "patch_embed/reverse_2_vector_per_thread.cu",
    "preprocess/forward_1_thread_per_pixel.cu",
    "preprocess/forward_2_four_pixels_per_thread.cu",
    "rows/add_1_thread_per_value.cu",
    "rows/add_2_vector_per_thread.cu",
    "rows/fill_1_thread_per_value.cu",
    "rows/fill_2_vector_per_thread.cu",
    "rows/gather_1_thread_per_value.cu",
    "rows/gather_2_vector_per_thread.cu",
    "sae_decode/forward_1_thread_per_value.cu",
    "sae_decode/forward_2_block_per_row.cu",
    "sae_decode/latent_1_thread_per_image.cu",
    "sae_decode/latent_2_block_per_image.cu",
    "sae_decode/latent_reverse_1_thread_per_row.cu",
    "sae_decode/latent_reverse_2_warp_per_row.cu",
    "sae_decode/reverse_1_thread_per_row.cu",
    "sae_decode/reverse_2_block_per_row.cu",
    "sae_encode/forward_1_thread_per_row.cu",
    "sae_encode/forward_2_mma_radix.cu",
    "sae_encode/forward_3_fused_top_k.cu",
];

/// The emulator's header for kernels, its runtime, and the stand-in driver.
const EMULATOR: &[Source] = sources![
    "emulator/device.h",
    "emulator/access.cpp",
    "emulator/api.h",
    "emulator/block.h",
    "emulator/collectives.cpp",
    "emulator/copies.cpp",
    "emulator/counters.cpp",
    "emulator/counters.h",
    "emulator/driver/context.cpp",
    "emulator/driver/cuda.h",
    "emulator/driver/driver.h",
    "emulator/driver/errors.cpp",
    "emulator/driver/events.cpp",
    "emulator/driver/graphs.cpp",
    "emulator/driver/launches.cpp",
    "emulator/driver/memory.cpp",
    "emulator/driver/modules.cpp",
    "emulator/driver/streams.cpp",
    "emulator/driver/tiles.cpp",
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
    "emulator/tile_map.h",
    "emulator/tiles.cpp",
    "emulator/warpgroup.cpp",
];

/// The kernel file of an operation's rung, such as (`gemm`, `forward_2`).
pub fn kernel(operation: &str, rung: &str) -> Option<&'static Source> {
    let start = format!("kernels/{operation}/{rung}_");
    KERNELS.iter().find(|source| source.name.starts_with(&start))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_kernels_folder_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        for entry in walkdir::WalkDir::new(root.join("kernels")).min_depth(2).into_iter().map(Result::unwrap) {
            if entry.file_type().is_file() {
                found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
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
