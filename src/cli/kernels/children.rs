//! Compilation in child processes: a compiler that crashes takes its child along, and nothing else.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use vitscope::{
    Error,
    backend::gpu::{
        architecture::Architecture,
        jit::{KERNELS, Nvrtc, Wanted, cache_folder},
    },
};

/// Compile kernel files, and say of each what came out, as a line of JSON
#[derive(Args)]
pub struct CompileArgs {
    /// The architecture
    #[arg(long)]
    arch: Architecture,
    /// Kernel files, as the repository names them
    sources: Vec<String>,
}

/// What came out of one compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The cubin's file and the compiler's log.
    Compiled { cubin: PathBuf, log: String },
    /// The compiler refused it, or crashed on it.
    Failed(String),
}

/// The child's side.
pub fn run(args: &CompileArgs) -> anyhow::Result<ExitCode> {
    let nvrtc = Nvrtc::find(&cache_folder()?)?;
    for name in &args.sources {
        let source = KERNELS.iter().find(|source| source.name == *name);
        let source = source.ok_or_else(|| Error::usage(format!("no kernel file `{name}`")))?;
        let outcome = match nvrtc.cubin(Wanted { source, architecture: args.arch, defines: &[] }) {
            Ok(cubin) => Outcome::Compiled { cubin: cubin.path, log: cubin.log },
            Err(error) => Outcome::Failed(error.to_string()),
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&outcome)?)?;
        stdout.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What one child compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The target.
    pub architecture: Architecture,
    /// Names of kernel files.
    pub sources: Vec<&'static str>,
}

impl Job {
    /// This program as the job's child.
    pub fn child(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["kernels", "compile", "--arch", &self.architecture.to_string()]).args(&self.sources);
        Ok(command)
    }
}

/// Runs jobs in at most `processes` children at a time; `each` gets every outcome, from several threads.
///
/// # Errors
/// When a child cannot be started.
pub fn compile(
    jobs: Vec<Job>,
    processes: usize,
    child: &(dyn Fn(&Job) -> io::Result<Command> + Sync),
    each: &(dyn Fn(Architecture, &'static str, Outcome) + Sync),
) -> io::Result<()> {
    let jobs = Mutex::new(VecDeque::from(jobs));
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(mut job) = next() {
            // After a crash another child does what is left.
            while !job.sources.is_empty() {
                let done = run_child(&mut child(&job)?, &job, each)?;
                job.sources.drain(..done);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processes).map(|_| scope.spawn(work)).collect();
        let crashed = || Err(io::Error::other("a thread that waits for a compiler panicked"));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| crashed()))
    })
}

/// Runs one child; how many of the job's files are done, the one that it crashed on included.
fn run_child(
    command: &mut Command,
    job: &Job,
    each: &(dyn Fn(Architecture, &'static str, Outcome) + Sync),
) -> io::Result<usize> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    let outcomes = lines.map_while(|line| serde_json::from_str(&line.ok()?).ok());
    let mut done = 0;
    for (source, outcome) in job.sources.iter().zip(outcomes) {
        each(job.architecture, source, outcome);
        done += 1;
    }
    let status = child.wait()?;
    if let Some(source) = job.sources.get(done) {
        each(job.architecture, source, Outcome::Failed(format!("the compiler's process ended with {status}")));
        done += 1;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_one_failure_and_the_rest_is_compiled() {
        let job = |number| Job { architecture: Architecture::of(number), sources: vec!["good", "bad", "after"] };
        // Stands in for the compiler: crashes on `bad`.
        let script = r#"for f; do if [ $f = bad ]; then kill -SEGV $$; fi
            echo "{\"Compiled\":{\"cubin\":\"$f.cubin\",\"log\":\"\"}}"; done"#;
        let child = |job: &Job| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).args(&job.sources);
            Ok(command)
        };
        let seen = Mutex::new(Vec::new());
        let each = |architecture: Architecture, source, outcome| {
            let said = match outcome {
                Outcome::Compiled { cubin, .. } => cubin.display().to_string(),
                Outcome::Failed(reason) => reason,
            };
            seen.lock().unwrap().push((architecture.number, source, said));
        };
        compile(vec![job(80), job(90)], 2, &child, &each).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        for (number, seen) in [80, 90].into_iter().zip(seen.chunks(3)) {
            let (after, bad, good) = (&seen[0], &seen[1], &seen[2]);
            assert_eq!((after.0, after.1, after.2.as_str()), (number, "after", "after.cubin"));
            assert_eq!((good.1, good.2.as_str()), ("good", "good.cubin"));
            assert!(bad.2.contains("signal: 11"), "{}", bad.2);
        }
    }
}
