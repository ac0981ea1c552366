//! What the user sees: results on stdout; warnings, notes, errors and the progress bar on stderr.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use vitscope::engine::Progress;

use super::args::Verbosity;

/// The two streams of one run.
pub struct Console {
    quiet: bool,
    verbose: bool,
    /// Whether results are printed as JSON.
    pub json: bool,
    bar: ProgressBar,
}

impl Console {
    /// As the user asked for.
    pub fn new(verbosity: &Verbosity) -> Self {
        Console {
            quiet: verbosity.quiet,
            verbose: verbosity.verbose > 0,
            json: verbosity.json,
            bar: ProgressBar::hidden(),
        }
    }

    /// The same console with a progress bar over `length` images, where stderr is a terminal.
    pub fn with_bar(&self, length: usize) -> Self {
        let bar = if self.quiet || length < 2 { ProgressBar::hidden() } else { ProgressBar::new(length as u64) };
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(out, "{:.1} images/s", state.per_sec());
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {rate}  {eta} left") {
            bar.set_style(style.with_key("rate", rate));
        }
        Console { bar, ..*self }
    }

    /// The same console with a progress bar over `length` kernels to compile.
    pub fn with_kernels(&self, length: usize) -> Self {
        Console { bar: self.kernels(length), ..*self }
    }

    fn kernels(&self, length: usize) -> ProgressBar {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(length as u64) };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} kernels compiled") {
            bar.set_style(style);
        }
        bar
    }

    /// Shows how far the compilation of kernels is, where there is anything to compile.
    pub fn compiling(&self) -> Progress {
        let bar = self.kernels(0);
        Progress::new(move |done, total| {
            bar.set_length(total as u64);
            bar.inc(1);
            if done == total {
                bar.finish_and_clear();
            }
        })
    }

    /// The same console with a progress bar over training steps of `tokens` tokens, of which `done` are done.
    pub fn with_steps(&self, steps: usize, done: usize, tokens: usize) -> Self {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(steps as u64) };
        let rate = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(out, "{:.0} tokens/s", state.per_sec() * tokens as f64);
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} steps  {rate}  {eta} left  {msg}") {
            bar.set_style(style.with_key("rate", rate));
        }
        let bar = bar.with_position(done as u64);
        // The steps of an earlier run took none of this one's time.
        bar.reset_eta();
        Console { bar, ..*self }
    }

    /// Says beside the bar what is going on.
    pub fn beside_bar(&self, message: String) {
        self.bar.set_message(message);
    }

    /// `count` more images, kernels or steps are done.
    pub fn advance(&self, count: usize) {
        self.bar.inc(count as u64);
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Whether `-q` was given.
    #[cfg(feature = "hub")]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Something that went wrong; always said.
    pub fn error(&self, message: &str) {
        self.bar.suspend(|| eprintln!("error: {message}"));
    }

    /// Something that the user should know.
    pub fn warn(&self, message: &str) {
        self.say(&format!("warning: {message}"));
    }

    /// Something that the user may want to know.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{message}"));
        }
    }

    /// Something for `-v`.
    pub fn detail(&self, message: &str) {
        if self.verbose {
            self.bar.suspend(|| eprintln!("{message}"));
        }
    }

    /// Prints a result to stdout: `text` for people, `json` with `--json`. `--quiet` leaves out the former.
    ///
    /// # Errors
    /// That of stdout, a broken pipe among them.
    pub fn result(
        &self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Vec<serde_json::Value>,
    ) -> io::Result<()> {
        let out = if self.json {
            json().iter().map(|line| format!("{line}\n")).collect()
        } else if self.quiet {
            return Ok(());
        } else {
            text()
        };
        self.bar.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(out.as_bytes())?;
            stdout.flush()
        })
    }
}

/// Columns of plain text, the first to the left, the others to the right, under a line of names.
pub fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    columns(names, rows, 1)
}

/// The same with the first `left` columns to the left.
pub fn columns(names: &[&str], rows: &[Vec<String>], left: usize) -> String {
    use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(names.iter().copied());
    table.add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_cell_alignment(if i < left { CellAlignment::Left } else { CellAlignment::Right });
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A number of bytes for people.
pub fn bytes(n: usize) -> String {
    const MIB: f64 = (1 << 20) as f64;
    match n as f64 / MIB {
        mib if mib >= 1024.0 => format!("{:.2} GiB", mib / 1024.0),
        mib if mib >= 10.0 => format!("{mib:.0} MiB"),
        mib => format!("{mib:.1} MiB"),
    }
}

/// A change for people, with a true minus sign.
pub fn signed(v: f64) -> String {
    format!("{v:+.4}").replace('-', "−")
}

/// A score for people, with a true minus sign.
pub fn number(v: f64) -> String {
    let text = if v != 0.0 && v.abs() < 1e-3 { format!("{v:.2e}") } else { format!("{v:.4}") };
    text.replace('-', "−")
}
