//! The emulator and the kernels it runs: every kernel over shapes with tails, and every check against a planted bug.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attention;
mod bugs;
mod gemm;
mod gemm_hopper;
mod head;
mod heatmap;
mod layer_norm;
mod numbers;
mod patch_embed;
mod preprocess;
mod rows;
mod runtime;
mod sae;
mod sae_decode;
mod sae_encode;

use std::{path::Path, sync::LazyLock};

use vitscope::backend::gpu::{
    emulator::{Counters, Emulator, Settings},
    jit::HostCxx,
    launch::{Ladder, Storage, Target},
};

/// One compiler and one cache for all tests: what did not change is not compiled again.
static CXX: LazyLock<HostCxx> = LazyLock::new(|| {
    HostCxx::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"))
        .expect("the emulator's tests need a C++ compiler")
});

/// Every setting a kernel must pass under: in order, and in two orders of their own.
fn checked() -> impl Iterator<Item = Emulator> {
    [0, 1, 2].into_iter().map(|seed| Emulator::new(&CXX, Settings::checked(seed)).unwrap())
}

/// Runs a rung and requires that nothing was found; nothing when the rung does not serve these sizes.
fn run<L: Ladder>(emulator: &Emulator, ladder: &L, rung: u32, storage: Storage) -> Option<Vec<Counters>> {
    let launches = ladder.launches(rung, Target { storage, architecture: 90 })?;
    let counters = launches.iter().map(|launch| {
        let module = emulator.module(&CXX, launch.source().unwrap(), &[]).unwrap();
        emulator.launch(&module, &launch.entry(), launch.shape, &launch.args).unwrap().passed().unwrap()
    });
    Some(counters.collect())
}
