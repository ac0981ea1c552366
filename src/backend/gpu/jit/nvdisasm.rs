//! NVIDIA's disassembler: which machine instructions a cubin holds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;

use super::toolkit;
use crate::{Error, Result};

/// Instructions of an entry, counted in its code (not as often as they run).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Matrix products of a warp: `mma.sync`.
    pub hmma: u32,
    /// Matrix products of a warpgroup: `wgmma`.
    pub hgmma: u32,
    /// `ldmatrix`.
    pub ldsm: u32,
    /// Copies from global to shared memory by a thread: `cp.async`.
    pub ldgsts: u32,
    /// Those of 16 bytes.
    pub ldgsts_128: u32,
    /// Copies by the copy engine.
    pub bulk: u32,
    /// Loads of 16 bytes from global memory.
    pub loads_128: u32,
    /// Stores of 16 bytes to global memory.
    pub stores_128: u32,
    /// Loads from local memory.
    pub ldl: u32,
    /// Stores to local memory.
    pub stl: u32,
}

impl Counts {
    fn add(&mut self, instruction: &str) {
        let mut parts = instruction.split('.');
        let name = parts.next().unwrap_or_default();
        let is_128 = u32::from(parts.any(|part| part == "128"));
        match name {
            "HMMA" => self.hmma += 1,
            "HGMMA" => self.hgmma += 1,
            "LDSM" => self.ldsm += 1,
            "LDGSTS" => {
                self.ldgsts += 1;
                self.ldgsts_128 += is_128;
            }
            "UBLKCP" | "UTMALDG" | "UTMASTG" => self.bulk += 1,
            "LDG" | "LD" => self.loads_128 += is_128,
            "STG" | "ST" => self.stores_128 += is_128,
            "LDL" => self.ldl += 1,
            "STL" => self.stl += 1,
            _ => {}
        }
    }
}

/// The disassembler.
#[derive(Debug, Clone)]
pub struct Nvdisasm {
    path: PathBuf,
    version: String,
}

impl Nvdisasm {
    /// Takes the program that `VITSCOPE_NVDISASM` names, else the first in `PATH`, in `CUDA_HOME` and `CUDA_PATH`, or among
    /// the wheels of the Python in `VIRTUAL_ENV` or `PATH`.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none: it says what to install.
    pub fn find() -> Result<Self> {
        let named = toolkit::variable("VITSCOPE_NVDISASM").map(PathBuf::from);
        let candidates = named.map_or_else(
            || {
                let folders = toolkit::toolkits("bin").into_iter().chain(toolkit::wheels(toolkit::WHEEL_PROGRAMS));
                toolkit::in_path("nvdisasm").into_iter().chain(folders.map(|folder| folder.join("nvdisasm"))).collect()
            },
            |named| vec![named],
        );
        let found = candidates.into_iter().find_map(|path| Some(Nvdisasm { version: version(&path)?, path }));
        found.ok_or_else(|| {
            failed("no disassembler nvdisasm: install it with `pip install nvidia-cuda-nvdisasm` or with a CUDA toolkit, or \
                    name it in VITSCOPE_NVDISASM")
        })
    }

    /// The program's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `13.2.86`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The instructions of each entry of a cubin.
    ///
    /// # Errors
    /// [`Error::Device`] with the program's messages.
    pub fn counts(&self, cubin: &Path) -> Result<BTreeMap<String, Counts>> {
        let output = Command::new(&self.path).arg("-c").arg(cubin).output();
        let output = output.map_err(|error| failed(&format!("{}: {error}", self.path.display())))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(&format!("nvdisasm cannot read {}: {}", cubin.display(), said.trim_end())));
        }
        Ok(count(&String::from_utf8_lossy(&output.stdout)))
    }
}

fn failed(reason: &str) -> Error {
    Error::Device { device: "cuda".into(), reason: reason.into() }
}

/// The version, or nothing when the program does not run.
fn version(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = text.split_once(", V")?;
    Some(rest.split_whitespace().next()?.to_owned())
}

/// Counts a listing's instructions under the `.text.ENTRY:` labels.
fn count(listing: &str) -> BTreeMap<String, Counts> {
    let mut entries = BTreeMap::new();
    let mut entry: Option<&mut Counts> = None;
    for line in listing.lines() {
        if let Some(label) = line.strip_prefix(".text.") {
            entry = Some(entries.entry(label.trim_end().trim_end_matches(':').to_owned()).or_default());
        } else if let (Some(counts), Some((_, code))) = (entry.as_deref_mut(), line.split_once("*/")) {
            // A predicate such as @!P0 may stand before the instruction.
            let mut words = code.split_whitespace().filter(|word| !word.starts_with(['@', '{']));
            words.next().into_iter().for_each(|instruction| counts.add(instruction));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_under_their_entry() {
        let listing = "\
//--------------------- .text.a__2__f16 --------------------------
\t.section\t.text.a__2__f16,\"ax\",@progbits
.text.a__2__f16:
        /*0e80*/                   LDGSTS.E.BYPASS.128 [R13], [R14.64], P0 ;
        /*0e90*/              @!P1 LDGSTS.E.64 [R13], [R14.64] ;
        /*2920*/                   LDSM.16.M88.4 R4, [R4] ;
        /*3800*/                   HMMA.16816.F32.BF16 R56, R32, R10, R56 ;
.L_x_3:
        /*6c80*/               @P0 LDG.E.128 R56, [R10.64] ;
        /*6c90*/                   LDG.E R56, [R10.64] ;
        /*a1b0*/                   STG.E.EF.128 [R16.64], R28 ;
.text.a__2__f32:
        /*0000*/                   STL.128 [R1], R4 ;
        /*0010*/                   LDL R4, [R1] ;
        /*0020*/                   UTMALDG.2D [UR8], [UR6], desc[UR10] ;
        /*0030*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
";
        let counts = count(listing);
        let half =
            Counts { hmma: 1, ldsm: 1, ldgsts: 2, ldgsts_128: 1, loads_128: 1, stores_128: 1, ..Counts::default() };
        assert_eq!(counts["a__2__f16"], half);
        assert_eq!(counts["a__2__f32"], Counts { hgmma: 1, bulk: 1, ldl: 1, stl: 1, ..Counts::default() });
        assert_eq!(counts.len(), 2);
    }

    #[test]
    fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(version(Path::new("no-such-program")), None);
    }
}
