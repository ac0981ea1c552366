//! The rungs that there are, read from the kernels' files, and which of them serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    architecture::{Architecture, Needs},
    jit::{KERNELS, Source},
    launch::{Ladder, Launch, Storage, Target},
};
use crate::{Error, Result};

/// Which sources were verified on a GPU: `tools/gpu_check.sh` writes what goes in here.
const VERIFIED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results/verified.json"));

/// Names that the lines of a card begin with.
const CARD_FIELDS: [&str; 8] = ["out", "in", "idea", "needs", "bytes/flops", "predicted", "measured", "checked by"];

/// One way to compute an operation in one direction: a kernel file.
#[derive(Debug, Clone)]
pub struct Rung {
    /// The operation: a folder of `kernels/`.
    pub operation: &'static str,
    /// `forward`, `reverse` or another of the operation's.
    pub direction: &'static str,
    /// Its place on the ladder, from 1.
    pub number: u32,
    /// The idea, as in the file's name.
    pub idea: String,
    /// The storage types that it has entries for.
    pub storages: Vec<Storage>,
    /// What it asks of the architecture.
    pub needs: Needs,
    /// The file.
    pub source: &'static Source,
    /// Hash of the file and its headers.
    pub hash: String,
}

/// Where and how a rung was last verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The GPU's name.
    pub device: String,
    /// The day, as YYYY-MM-DD.
    pub date: String,
    /// What was run.
    pub command: String,
}

impl Rung {
    /// The rung of a kernel file; nothing when its name, card or entries are not of the form that `kernels/README.md` tells.
    fn read(source: &'static Source) -> Option<Self> {
        let (operation, file) = source.name.strip_prefix("kernels/")?.split_once('/')?;
        let stem = file.strip_suffix(".cu")?;
        let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
        let number = stem.split('_').find(is_number)?;
        let (direction, idea) = stem.split_once(&format!("_{number}_"))?;
        let needs = card_field(source.text, "needs")?;
        Some(Rung {
            operation,
            direction,
            number: number.parse().ok()?,
            idea: idea.replace('_', " "),
            storages: storages(source.text),
            needs: Needs::parse(&needs)?,
            source,
            hash: source.hash(),
        })
    }

    /// As `--kernel` names its ladder.
    pub fn ladder(&self) -> String {
        format!("{}_{}", self.operation, self.direction)
    }

    /// The comment at the head of its file, without the slashes.
    pub fn card(&self) -> String {
        let lines = self.source.text.lines().map_while(|line| line.strip_prefix("//"));
        lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line).trim_end())).collect()
    }
}

/// The storage types that a kernel file has entries for: what its `ENTRY(T)` lines name, and how entries written out end. Those
/// that are the same for every type do not count, where there are others.
fn storages(text: &str) -> Vec<Storage> {
    fn first(list: &str) -> Option<&str> {
        list.split([',', ')']).next()
    }
    let by_macro = |line| first(["ENTRY(", "ENTRIES("].into_iter().find_map(|start| str::strip_prefix(line, start))?);
    let written = |line| str::strip_prefix(line, "REGISTER_KERNEL(")?.strip_suffix(')')?.rsplit_once("__");
    let mut names: Vec<&str> = text.lines().filter_map(by_macro).collect();
    let is_all = names.is_empty();
    let has_types = |part: &str| is_all || text.contains(&format!("REGISTER_KERNEL({part}__##T)"));
    names.extend(text.lines().filter_map(written).filter(|(part, _)| has_types(part)).map(|(_, name)| name));
    [Storage::F32, Storage::F16, Storage::Bf16].into_iter().filter(|storage| names.contains(&storage.name())).collect()
}

/// A field of a kernel's card, its lines joined.
fn card_field(text: &str, name: &str) -> Option<String> {
    let starts =
        |line: &str| CARD_FIELDS.iter().find(|field| line.strip_prefix(*field).is_some_and(|l| l.starts_with(' ')));
    let mut lines = text.lines().map_while(|line| line.strip_prefix("//"));
    let first = lines.by_ref().find(|line| line.strip_prefix(' ').and_then(starts) == Some(&name))?;
    let rest = lines.take_while(|line| line.strip_prefix(' ').and_then(starts).is_none());
    let first = first.trim_start().strip_prefix(name)?;
    Some(std::iter::once(first).chain(rest).map(str::trim).collect::<Vec<_>>().join(" "))
}

/// All rungs, in the order of their ladders.
pub fn all() -> Vec<Rung> {
    // A test reads every file.
    KERNELS.iter().filter_map(Rung::read).collect()
}

/// Where and how sources of this hash were last verified on a GPU.
///
/// # Errors
/// [`Error::File`] when the embedded list is damaged, which is a defect.
pub fn verified() -> Result<BTreeMap<String, Verified>> {
    serde_json::from_str(VERIFIED).map_err(|error| Error::file("benches/results/verified.json", error.to_string()))
}

/// A rung that the user asked for: `gemm_forward=1`, or `gemm=1` for each of the operation's directions that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Force {
    ladders: Vec<String>,
    rung: u32,
}

impl FromStr for Force {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let form = || {
            Error::usage(format!("`{s}`: expected OPERATION=RUNG or OPERATION_DIRECTION=RUNG, such as gemm_forward=1"))
        };
        let (name, rung) = s.split_once('=').ok_or_else(form)?;
        let rung: u32 = rung.parse().map_err(|_| form())?;
        let named: Vec<Rung> = all().into_iter().filter(|r| r.operation == name || r.ladder() == name).collect();
        if named.is_empty() {
            let mut known: Vec<String> = all().iter().map(Rung::ladder).collect();
            known.dedup();
            return Err(Error::usage(format!("no kernels of the name `{name}`: expected one of {}", known.join(", "))));
        }
        let ladders: Vec<String> = named.iter().filter(|r| r.number == rung).map(Rung::ladder).collect();
        if ladders.is_empty() {
            let there: Vec<String> = named.iter().map(|r| format!("{}={}", r.ladder(), r.number)).collect();
            return Err(Error::usage(format!("`{name}` has no rung {rung}; there are {}", there.join(", "))));
        }
        Ok(Force { ladders, rung })
    }
}

/// The rungs that the user asked for, by ladder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forced(BTreeMap<String, u32>);

impl Forced {
    /// The rung of a ladder, where one is asked for.
    pub fn rung(&self, ladder: &str) -> Option<u32> {
        self.0.get(ladder).copied()
    }

    /// Whether none is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Forced {
    /// As `VITSCOPE_KERNEL` takes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|(ladder, rung)| format!("{ladder}={rung}")).collect();
        f.write_str(&names.join(","))
    }
}

impl FromIterator<Force> for Forced {
    /// Of two for the same ladder the later one counts.
    fn from_iter<I: IntoIterator<Item = Force>>(forces: I) -> Self {
        Forced(forces.into_iter().flat_map(|f| f.ladders.into_iter().map(move |ladder| (ladder, f.rung))).collect())
    }
}

/// Chooses rungs, and remembers which.
#[derive(Debug)]
pub struct Rungs {
    needs: BTreeMap<(&'static str, &'static str, u32), Needs>,
    forced: Forced,
    used: Mutex<BTreeSet<(&'static str, &'static str, u32)>>,
}

impl Rungs {
    /// All rungs, some ladders bound to one of theirs.
    pub fn new(forced: Forced) -> Self {
        let needs = all().iter().map(|rung| ((rung.operation, rung.direction, rung.number), rung.needs)).collect();
        Rungs { needs, forced, used: Mutex::default() }
    }

    /// Whether there is such a rung (operation, direction, number), and its card allows this target.
    pub fn allows(&self, rung: (&'static str, &'static str, u32), target: Target) -> bool {
        self.needs.get(&rung).is_some_and(|needs| needs.allow(Architecture::of(target.architecture)))
    }

    /// The launches of the forced rung, or of the highest that serves these sizes and this target.
    ///
    /// # Errors
    /// [`Error::Unserved`] when a forced rung does not serve; [`Error::Device`] when none does.
    pub fn pick<L: Ladder>(&self, ladder: &L, target: Target) -> Result<Vec<Launch>> {
        let architecture = Architecture::of(target.architecture);
        let launches = |rung: u32| {
            let is_allowed = self.allows((L::OPERATION, L::DIRECTION, rung), target);
            is_allowed.then(|| ladder.launches(rung, target)).flatten()
        };
        let name = format!("{}_{}", L::OPERATION, L::DIRECTION);
        let storage = target.storage.name();
        let launches = match self.forced.0.get(&name) {
            Some(&rung) => launches(rung).ok_or_else(|| {
                Error::Unserved(format!(
                    "--kernel {name}={rung}: this rung does not serve these sizes in {storage} on {architecture}"
                ))
            }),
            None => (1..=L::TOP).rev().find_map(launches).ok_or_else(|| Error::Device {
                device: "gpu".into(),
                reason: format!("no rung of {name} serves these sizes in {storage} on {architecture}"),
            }),
        }?;
        let picked = launches.iter().map(|launch| (launch.operation, launch.direction, launch.rung));
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(picked);
        Ok(launches)
    }

    /// The files of the rungs that a pass will most likely want: of each ladder the forced one, or the highest two that this
    /// target allows, without rung 1 where there is another.
    pub fn likely(&self, target: Target) -> Vec<&'static Source> {
        let mut ladders: BTreeMap<String, Vec<Rung>> = BTreeMap::new();
        for rung in all() {
            let is_allowed = self.allows((rung.operation, rung.direction, rung.number), target);
            // What is f32 whatever the storage type has no other entry.
            let has_type = rung.storages.contains(&target.storage) || rung.storages == [Storage::F32];
            if is_allowed && has_type {
                ladders.entry(rung.ladder()).or_default().push(rung);
            }
        }
        let likely = ladders.into_iter().flat_map(|(ladder, mut rungs)| {
            rungs.sort_by_key(|rung| std::cmp::Reverse(rung.number));
            match self.forced.rung(&ladder) {
                Some(forced) => rungs.retain(|rung| rung.number == forced),
                None => rungs.truncate(2),
            }
            let alone = rungs.len() == 1;
            rungs.into_iter().filter(move |rung| alone || rung.number > 1).map(|rung| rung.source)
        });
        likely.collect()
    }

    /// The rungs that were picked so far, as `--kernel` names them.
    pub fn used(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.iter().map(|(operation, direction, rung)| format!("{operation}_{direction}={rung}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::gemm;

    #[test]
    fn likely_files_are_the_highest_two_rungs_without_the_first() {
        let likely = |forced: &[&str], architecture, storage| {
            let forced = forced.iter().map(|force| force.parse::<Force>().unwrap()).collect();
            let sources = Rungs::new(forced).likely(Target { storage, architecture });
            sources.iter().filter_map(|source| source.name.split("gemm/forward_").nth(1)).collect::<Vec<_>>().join(" ")
        };
        let (second, third) = ("2_mma_stages.cu", "3_tma_wgmma.cu");
        assert_eq!(likely(&[], 90, Storage::Bf16), format!("{third} {second}"));
        assert_eq!(likely(&[], 80, Storage::Bf16), second);
        assert_eq!(likely(&[], 90, Storage::F32), second);
        assert_eq!(likely(&["gemm_forward=1"], 90, Storage::Bf16), "1_thread_per_value.cu");
        let all = Rungs::new(Forced::default()).likely(Target { storage: Storage::Bf16, architecture: 90 });
        let ladders: BTreeSet<String> = super::all().iter().map(Rung::ladder).collect();
        assert!(all.len() >= ladders.len() && all.len() < KERNELS.len());
    }

    #[test]
    fn every_kernel_file_is_a_rung_with_a_card() {
        let rungs = all();
        let read: BTreeSet<_> = rungs.iter().map(|rung| rung.source.name).collect();
        for source in KERNELS {
            assert!(
                read.contains(source.name),
                "{}: its name, `needs` line or ENTRY lines cannot be read",
                source.name
            );
        }
        for rung in &rungs {
            let name = rung.source.name;
            assert!(!rung.storages.is_empty(), "{name}: no entries");
            assert!(rung.source.text.contains(&format!("__{}__", rung.number)), "{name}: entries of another rung");
            for field in ["out", "idea", "needs", "bytes/flops", "predicted", "measured", "checked by"] {
                assert!(
                    card_field(rung.source.text, field).is_some_and(|text| !text.is_empty()),
                    "{name}: no `{field}`"
                );
            }
            // Ladders have no gaps.
            let below = rungs.iter().filter(|other| other.ladder() == rung.ladder() && other.number < rung.number);
            assert_eq!(below.count() as u32, rung.number - 1, "{name}");
        }
    }

    #[test]
    fn a_card_is_read_over_its_lines() {
        const CARD: &str = "// a / forward_1_b.cu      rung 1 of 1\n// out  y\n// in   x,\n//      more of x\n// idea        i\n// needs       sm_80+\nint needs;\n";
        assert_eq!(card_field(CARD, "in").unwrap(), "x, more of x");
        assert_eq!(card_field(CARD, "needs").unwrap(), "sm_80+");
        assert_eq!(card_field(CARD, "measured"), None);
    }

    #[test]
    fn types_are_those_of_the_entries() {
        assert_eq!(storages("ENTRY(f16)\nENTRIES(f32)\n"), [Storage::F32, Storage::F16]);
        assert_eq!(storages("#define ENTRY(T)\nENTRY(bf16, 64)\n"), [Storage::Bf16]);
        assert_eq!(storages("REGISTER_KERNEL(rows_fill__1__f32)\n    REGISTER_KERNEL(a__1__##T)"), [Storage::F32]);
        assert_eq!(storages("ENTRY(f16)\nREGISTER_KERNEL(a_merge__1__f32)\n"), [Storage::F16]);
        let product = "    REGISTER_KERNEL(a__1__##T)\nENTRY(f16)\nREGISTER_KERNEL(a__1__f32)\n";
        assert_eq!(storages(product), [Storage::F32, Storage::F16]);
    }

    #[test]
    fn the_list_of_verified_sources_can_be_read() {
        verified().unwrap();
    }

    #[test]
    fn forced_rungs_are_read_and_unknown_ones_refused() {
        let forced = |all: &[&str]| all.iter().map(|s| s.parse::<Force>()).collect::<Result<Forced>>();
        let one = forced(&["gemm_forward=1"]).unwrap();
        assert_eq!(one.0, BTreeMap::from([("gemm_forward".into(), 1)]));
        assert_eq!(forced(&["gemm=2", "gemm_reverse=1"]).unwrap().0["gemm_reverse"], 1);
        assert_eq!(forced(&["gemm=2", "gemm_reverse=1"]).unwrap().0["gemm_forward"], 2);
        for (wrong, said) in [
            ("gemm_forward", "OPERATION=RUNG"),
            ("gemm_forward=two", "OPERATION=RUNG"),
            ("gem_forward=1", "gemm_forward, gemm_reverse"),
            ("gemm_forward=77", "has no rung 77; there are gemm_forward=1, gemm_forward=2"),
        ] {
            let error = wrong.parse::<Force>().unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn the_highest_rung_that_serves_is_picked_unless_one_is_forced() {
        let product = |k| gemm::Forward {
            y: 0,
            u: 0,
            x: 0,
            w: 0,
            bias: 0,
            residual: 0,
            residual_stride: 0,
            activation: 0,
            m: 3,
            n: 8,
            k,
        };
        let target = |storage, architecture| Target { storage, architecture };
        let rungs = |forced: &[&str]| Rungs::new(forced.iter().map(|s| s.parse::<Force>().unwrap()).collect());
        let picked = |rungs: &Rungs, k, target| rungs.pick(&product(k), target).map(|launches| launches[0].rung);
        let free = rungs(&[]);
        assert_eq!(picked(&free, 8, target(Storage::Bf16, 80)).unwrap(), 2);
        assert_eq!(free.used(), ["gemm_forward=2"]);
        assert_eq!(picked(&free, 7, target(Storage::Bf16, 80)).unwrap(), 1);
        assert_eq!(picked(&free, 8, target(Storage::Bf16, 75)).unwrap(), 1, "the card says sm_80+");
        assert_eq!(picked(&rungs(&["gemm_forward=1"]), 8, target(Storage::Bf16, 80)).unwrap(), 1);
        assert_eq!(picked(&rungs(&["gemm_reverse=1"]), 8, target(Storage::Bf16, 80)).unwrap(), 2);
        let error = picked(&rungs(&["gemm=2"]), 7, target(Storage::F32, 80)).unwrap_err();
        assert!(error.to_string().contains("gemm_forward=2: this rung does not serve"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
