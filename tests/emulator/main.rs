//! The emulator and the kernels it runs: every kernel over shapes with tails, and every check against a planted bug.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attention;
mod bugs;
mod every_kernel;
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

use std::{cell::RefCell, collections::BTreeSet, path::Path, sync::LazyLock};

use vitscope::backend::gpu::{
    emulator::{Counters, Emulator, Settings},
    jit::{HostCxx, Mode},
    launch::{Ladder, Storage, Target},
};

/// One compiler and one cache for all tests: what did not change is not compiled again.
static CXX: LazyLock<HostCxx> = LazyLock::new(|| {
    HostCxx::find(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"))
        .expect("the emulator's tests need a C++ compiler")
});

/// Every setting a kernel must pass under: in order, and in two orders of their own.
fn checked() -> impl Iterator<Item = Emulator> {
    [0, 1, 2].into_iter().map(checked_in)
}

/// The same, all at once: for tests that give each case one of them.
fn orders() -> [Emulator; 3] {
    [0, 1, 2].map(checked_in)
}

fn checked_in(seed: u64) -> Emulator {
    Emulator::new(&CXX, Settings::checked(seed)).unwrap()
}

thread_local! {
    /// What this test, which has its own thread, ran in checking mode without a finding.
    static PASSED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Runs a rung and requires that nothing was found; nothing when the rung does not serve these sizes.
fn run<L: Ladder>(emulator: &Emulator, ladder: &L, rung: u32, storage: Storage) -> Option<Vec<Counters>> {
    let launches = ladder.launches(rung, Target { storage, architecture: 90 })?;
    let counters = launches.iter().map(|launch| {
        let module = emulator.module(&CXX, launch.source().unwrap(), &[]).unwrap();
        let counters = emulator.launch(&module, &launch.entry(), launch.shape, &launch.args).unwrap().passed().unwrap();
        if emulator.mode() == Mode::Checked {
            PASSED.with_borrow_mut(|passed| passed.insert(launch.entry()));
        }
        counters
    });
    Some(counters.collect())
}
