//! What a compilation's log tells: registers, memory and spills of each entry, warnings and remarks.

use serde::Serialize;

/// What an entry takes of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The entry.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Bytes of a thread's stack, its functions' included.
    pub stack: u32,
    /// Bytes of registers that are stored to local memory.
    pub spill_stores: u32,
    /// Bytes that are loaded back.
    pub spill_loads: u32,
}

/// A log of NVRTC with `--ptxas-options=-v`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompileLog {
    /// The entries, in the log's order.
    pub usages: Vec<Usage>,
    /// Warnings, and remarks such as `(C7510) Potential Performance Loss`.
    pub remarks: Vec<String>,
}

impl CompileLog {
    /// Reads a log.
    pub fn parse(log: &str) -> Self {
        let mut read = CompileLog::default();
        for line in log.lines() {
            if line.contains("warning") || has_remark_number(line) {
                read.remarks.push(line.trim().to_owned());
            } else if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                let entry = rest.split('\'').next().unwrap_or_default().to_owned();
                read.usages.push(Usage { entry, ..Usage::default() });
            } else if let Some(usage) = read.usages.last_mut() {
                // Lines about the entry, and about functions of it that were not inlined.
                usage.registers = usage.registers.max(before(line, " registers"));
                usage.shared = usage.shared.max(before(line, " bytes smem"));
                usage.stack += before(line, " bytes stack frame");
                usage.spill_stores += before(line, " bytes spill stores");
                usage.spill_loads += before(line, " bytes spill loads");
            }
        }
        read
    }
}

/// Whether a line has a number of the assembler's remarks, `C` and four digits.
fn has_remark_number(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word.len() == 5 && word.strip_prefix('C').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
}

/// The number before `what`; 0 when the line does not tell it.
fn before(line: &str, what: &str) -> u32 {
    let words = line.split_once(what).map(|(before, _)| before).unwrap_or_default();
    words.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 104 bytes gmem, 208 bytes cmem[4]
ptxas info    : Compiling entry function 'gemm_forward__2__bf16' for 'sm_80'
ptxas info    : Function properties for gemm_forward__2__bf16
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 122 registers, used 1 barriers, 1040 bytes smem, 424 bytes cmem[0], 48 bytes cmem[2]
ptxas info    : Compile time = 290.960 ms
ptxas info    : Compiling entry function 'b__1__f32' for 'sm_80'
ptxas info    : Function properties for b__1__f32
ptxas         .     240 bytes stack frame, 324 bytes spill stores, 320 bytes spill loads
ptxas info    : Function properties for helper
ptxas         .     16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 240 bytes cumulative stack size, 400 bytes cmem[0]
";

    #[test]
    fn a_log_gives_each_entrys_usage() {
        let log = CompileLog::parse(LOG);
        let usage = |entry: &str, registers, shared, stack, spill_stores, spill_loads| Usage {
            entry: entry.into(),
            registers,
            shared,
            stack,
            spill_stores,
            spill_loads,
        };
        assert_eq!(
            log.usages,
            [usage("gemm_forward__2__bf16", 122, 1040, 0, 0, 0), usage("b__1__f32", 32, 0, 256, 324, 320)]
        );
        assert!(log.remarks.is_empty());
    }

    #[test]
    fn warnings_and_remarks_are_kept() {
        let serialized =
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized";
        let unused = "kernels/a.cu(3): warning #177-D: variable \"x\" was declared but never referenced";
        let log = CompileLog::parse(&format!("{LOG}{serialized}\n\n{unused}\n"));
        assert_eq!(log.remarks, [serialized, unused]);
        assert_eq!(log.usages.len(), 2);
    }
}
