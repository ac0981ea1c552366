//! No kernel without a checked run: the entries of the kernels' files, as the compiler made them, beside what ran here.

use std::{collections::BTreeSet, io::Write};

use vitscope::backend::gpu::{
    emulator::{Emulator, Settings},
    jit::Mode,
    launch::Storage,
    registry::{self, Rung},
};

use crate::{
    CXX, PASSED, attention, gemm, gemm_hopper, head, heatmap, layer_norm, patch_embed, preprocess, rows, sae_decode,
    sae_encode,
};

/// The entries of a file, by the names in its object. A kernel's name is kept with the emulator's mark before it; without,
/// should somebody forget to register it.
fn entries(rung: &Rung) -> BTreeSet<String> {
    let object = std::fs::read(CXX.kernels(rung.source, Mode::Checked, &[]).unwrap()).unwrap();
    let ends = [Storage::F32, Storage::F16, Storage::Bf16].map(|s| format!("__{}__{}", rung.number, s.name()));
    let names = object.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let names = names.map(|name| name.strip_prefix("emulated_").unwrap_or(name));
    let own = names.filter(|name| name.starts_with(&rung.ladder()) && ends.iter().any(|end| name.ends_with(end)));
    let entries: BTreeSet<String> = own.map(str::to_owned).collect();
    for storage in &rung.storages {
        assert!(entries.iter().any(|entry| entry.ends_with(storage.name())), "{} {storage:?}", rung.source.name);
    }
    entries
}

#[test]
fn every_kernel_runs_checked() {
    PASSED.take();
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    attention::every_kernel(&emulator);
    gemm::every_kernel(&emulator);
    gemm_hopper::every_kernel(&emulator);
    head::every_kernel(&emulator);
    heatmap::every_kernel(&emulator);
    layer_norm::every_kernel(&emulator);
    patch_embed::every_kernel(&emulator);
    preprocess::every_kernel(&emulator);
    rows::every_kernel(&emulator);
    sae_decode::every_kernel(&emulator);
    sae_encode::every_kernel(&emulator);
    let (passed, all) = (PASSED.take(), registry::all().iter().flat_map(entries).collect::<BTreeSet<_>>());
    let missing: Vec<_> = all.difference(&passed).collect();
    // Not by a macro, whose output a passing test keeps to itself.
    writeln!(std::io::stderr(), "{} of {} kernels ran checked", passed.len(), all.len()).unwrap();
    assert!(missing.is_empty(), "not run in checking mode: {missing:#?}");
    assert_eq!(passed, all, "what ran is in no file");
    let told = format!("all {} kernels", all.len());
    assert!(include_str!("../../kernels/README.md").contains(&told), "kernels/README.md does not say `{told}`");
}
