//! What a compiled rung must look like: no spills, no local memory, tensor cores and 16-byte copies where its source says so.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    jit::{CompileLog, Counts, Usage},
    launch::Storage,
    registry::Rung,
};

/// One entry of a compiled rung.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Registers, memory, spills.
    #[serde(flatten)]
    pub usage: Usage,
    /// Instructions.
    #[serde(flatten)]
    pub counts: Counts,
}

/// The entries of a compiled rung, and what is wrong with them.
///
/// Spills, a stack, local memory and remarks of the compiler are faults of any rung. A source that includes `mma.cuh` must
/// show HMMA (or HGMMA) for each of its 16-bit types, one that includes `copy_async.cuh` must show a copy of 16 bytes.
pub fn check(rung: &Rung, log: &CompileLog, counts: &BTreeMap<String, Counts>) -> (Vec<Entry>, Vec<String>) {
    let mut faults = log.remarks.clone();
    let mut entries = Vec::new();
    for usage in &log.usages {
        let Some(&counts) = counts.get(&usage.entry) else {
            faults.push(format!("{}: not in the disassembly", usage.entry));
            continue;
        };
        if usage.stack + usage.spill_stores + usage.spill_loads > 0 {
            let Usage { entry, stack, spill_stores, spill_loads, .. } = usage;
            faults.push(format!("{entry}: {stack} bytes of stack, {spill_stores} spilled, {spill_loads} loaded back"));
        }
        if counts.ldl + counts.stl > 0 {
            faults.push(format!("{}: {} LDL and {} STL", usage.entry, counts.ldl, counts.stl));
        }
        entries.push(Entry { usage: usage.clone(), counts });
    }
    let includes = |name: &str| rung.source.with_headers().iter().any(|header| header.name.ends_with(name));
    for &storage in &rung.storages {
        let suffix = format!("__{}__{}", rung.number, storage.name());
        let of_type: Vec<&Entry> = entries.iter().filter(|entry| entry.usage.entry.ends_with(&suffix)).collect();
        if of_type.is_empty() {
            faults.push(format!("no entry for {}", storage.name()));
        } else if storage != Storage::F32
            && includes("/mma.cuh")
            && of_type.iter().all(|entry| entry.counts.hmma + entry.counts.hgmma == 0)
        {
            faults.push(format!("no HMMA for {}", storage.name()));
        }
    }
    if includes("/copy_async.cuh") && entries.iter().all(|entry| entry.counts.ldgsts_128 + entry.counts.bulk == 0) {
        faults.push("no 16-byte LDGSTS".into());
    }
    (entries, faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::registry;

    /// The faults of gemm's rung 2 when its entries look like this.
    fn faults(usage: Usage, counts: Counts) -> Vec<String> {
        let rung =
            registry::all().into_iter().find(|rung| rung.ladder() == "gemm_forward" && rung.number == 2).unwrap();
        let usage = |name: &str| Usage { entry: format!("gemm_forward__2__{name}"), ..usage.clone() };
        let log = CompileLog { usages: vec![usage("f32"), usage("f16"), usage("bf16")], remarks: Vec::new() };
        let counts = log.usages.iter().map(|usage| (usage.entry.clone(), counts)).collect();
        check(&rung, &log, &counts).1
    }

    const GOOD: Counts = Counts {
        hmma: 64,
        hgmma: 0,
        ldsm: 24,
        ldgsts: 56,
        ldgsts_128: 56,
        bulk: 0,
        loads_128: 4,
        stores_128: 2,
        ldl: 0,
        stl: 0,
    };

    #[test]
    fn each_fault_is_found() {
        let usage = Usage { registers: 122, ..Usage::default() };
        assert!(faults(usage.clone(), GOOD).is_empty());
        let one = |usage: Usage, counts: Counts, said: &str| {
            let faults = faults(usage, counts);
            assert!(faults.iter().any(|fault| fault.contains(said)), "{faults:?}");
        };
        one(Usage { spill_stores: 8, ..usage.clone() }, GOOD, "8 spilled");
        one(Usage { stack: 16, ..usage.clone() }, GOOD, "16 bytes of stack");
        one(usage.clone(), Counts { ldl: 1, ..GOOD }, "1 LDL");
        one(usage.clone(), Counts { hmma: 0, ..GOOD }, "no HMMA for bf16");
        one(usage.clone(), Counts { ldgsts_128: 0, ..GOOD }, "no 16-byte LDGSTS");
    }

    #[test]
    fn remarks_and_missing_entries_are_faults() {
        let rung = registry::all().remove(0);
        let log = CompileLog { usages: vec![Usage::default()], remarks: vec!["(C7510)".into()] };
        let (entries, faults) = check(&rung, &log, &BTreeMap::new());
        assert!(entries.is_empty());
        assert!(faults.iter().any(|fault| fault == "(C7510)"));
        assert!(faults.iter().any(|fault| fault.contains("not in the disassembly")));
        assert!(faults.iter().any(|fault| fault.contains("no entry for")));
    }
}
