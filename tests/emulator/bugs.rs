//! Kernels with a planted bug, each caught at its line, and their correct twins, which pass.

use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    jit::Source,
    launch::{Arg, Shape, Storage, Swizzle, TileMap},
};

use crate::CXX;

/// Runs both kernels of a file. The bug's finding is of one of `kinds` and names a line that is marked in the file.
/// Seeds change the order of threads, and never whether the bug is seen. Kernels that take a map get one of the result.
fn check(source: &Source, kinds: &[&str], blocks: u32, threads: u32) {
    let marked: Vec<String> = (1..)
        .zip(source.text.lines())
        .filter(|(_, line)| line.contains("HERE"))
        .map(|(number, _)| format!("{}:{number}", source.name))
        .collect();
    for seed in 0..4 {
        let emulator = Emulator::new(&CXX, Settings::checked(seed)).unwrap();
        let module = emulator.module(&CXX, source, &[]).unwrap();
        let x = emulator.upload(&(0..1024).collect::<Vec<i32>>()).unwrap();
        let shape = Shape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 512 };
        let run = |kernel| {
            let y = emulator.unwritten::<i32>(128).unwrap();
            let map = TileMap::matrix(y.address(), Storage::F32, [4, 32], [32, 4], Swizzle::None);
            let mut args = vec![y.arg(), x.arg()];
            if source.text.contains("TileMap") {
                args.push(Arg::Tiles(map));
            }
            let launched = emulator.launch(&module, kernel, shape, &args).unwrap();
            (launched, y.download().unwrap())
        };
        let (good, _) = run("without_bug");
        assert!(good.findings.is_empty(), "{} seed {seed}: {:#?}", source.name, good.findings);
        let (bad, _) = run("with_bug");
        let first = bad.findings.first().unwrap_or_else(|| panic!("{} seed {seed}: nothing found", source.name));
        assert!(kinds.contains(&first.kind.as_str()), "{} seed {seed}: {first}", source.name);
        let place = first.place.split(' ').next().unwrap().to_owned();
        assert!(marked.contains(&place), "{} seed {seed}: {first}", source.name);
        assert!(bad.passed().unwrap_err().to_string().contains(&place));
    }
}

macro_rules! bugs {
    ($($name:ident: $kinds:expr, $blocks:literal x $threads:literal;)*) => {
        $(#[test]
        fn $name() {
            const NAME: &str = concat!("tests/emulator/bugs/", stringify!($name), ".cu");
            let source = Source { name: NAME, text: include_str!(concat!("bugs/", stringify!($name), ".cu")) };
            check(&source, &$kinds, $blocks, $threads);
        })*

        /// The files whose bugs are tested above.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

bugs! {
    missing_barrier: ["uninitialised", "race"], 1 x 128;
    missing_copy_wait: ["copy"], 1 x 128;
    weak_copy_wait: ["copy"], 1 x 128;
    early_release: ["race"], 1 x 128;
    out_of_bounds: ["bounds"], 1 x 128;
    out_of_shared: ["bounds"], 1 x 128;
    unwritten_shared: ["uninitialised"], 1 x 128;
    unwritten_global: ["uninitialised"], 1 x 128;
    divergent_collective: ["divergence"], 1 x 128;
    divergent_barrier: ["divergence"], 1 x 128;
    missing_mbarrier_wait: ["copy", "race"], 1 x 128;
    misaligned: ["alignment"], 1 x 128;
    block_race: ["race"], 2 x 128;
    missing_arrival: ["deadlock"], 1 x 128;
    early_operand_release: ["race"], 1 x 160;
    missing_full_wait: ["copy", "race"], 1 x 128;
    missing_operand_fence: ["proxy"], 1 x 128;
    missing_wgmma_fence: ["wgmma"], 1 x 128;
    missing_wgmma_wait: ["wgmma"], 1 x 128;
    divergent_wgmma: ["divergence"], 1 x 128;
    partial_setmaxnreg: ["divergence"], 1 x 128;
    wrong_expected_bytes: ["deadlock"], 1 x 128;
    missing_init_fence: ["proxy"], 1 x 128;
    missing_proxy_fence: ["proxy"], 1 x 128;
    missing_global_fence: ["proxy"], 1 x 128;
    early_tile_reuse: ["race"], 1 x 128;
}

#[test]
fn every_planted_bug_is_tested() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/emulator/bugs");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        assert!(TESTED.contains(&path.file_stem().unwrap().to_str().unwrap()), "{}", path.display());
    }
}
