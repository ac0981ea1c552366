//! The one error type of the library. Every variant names what was read, what was expected and what was found.

use std::path::{Path, PathBuf};

/// Result of every fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever can go wrong, as a value. [`Error::exit_code`] maps it to the process's exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An unknown name, or a value out of its range, in what the user asked for.
    #[error("{0}")]
    Usage(String),
    /// A kernel that the user forced does not serve these sizes, type or GPU.
    #[error("{0}")]
    Unserved(String),
    /// A picture that cannot be decoded. It never ends a run: it is reported in the result line of that picture.
    #[error("{}: {reason}", path.display())]
    Image {
        /// The picture.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A model, tokenizer, SAE or fixture file that is damaged, incomplete or not of a known form.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that is missing, or has another shape or type than its model needs.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file that should hold it.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What the model needs (shape, type, finite values).
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A valid SAE that does not fit the model it shall be spliced into.
    #[error("{}: does not fit the model: {what}: expected {expected}, found {found}", path.display())]
    Fit {
        /// The SAE.
        path: PathBuf,
        /// Which property (width, layer).
        what: &'static str,
        /// The model's.
        expected: String,
        /// The SAE's.
        found: String,
    },
    /// The device that was asked for is not there.
    #[error("device `{device}`: {reason}")]
    Device {
        /// As the user named it.
        device: String,
        /// Why it cannot be used, and what to install.
        reason: String,
    },
    /// A pass that asked for another tensor than its plan holds: a defect of the engine.
    #[error("the pass asks for tensor `{tensor}`, the plan holds {planned:?}")]
    Plan {
        /// Asked for.
        tensor: String,
        /// Next in the plan.
        planned: Option<String>,
    },
    /// A verification that ran to its end and found differences.
    #[error("verification failed: {0}")]
    Verification(String),
    /// The user pressed Ctrl-C; what was finished is on disk.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::File { path: path.into(), reason: reason.into() }
    }

    /// An [`Error::Image`] about `path`.
    pub fn image(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::Image { path: path.into(), reason: reason.into() }
    }

    /// An [`Error::Tensor`]: `tensor` in `path` should be `expected` but is `found`.
    pub fn tensor(
        path: &Path,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Error::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// An [`Error::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }

    /// The process's exit code: 1 input, 2 usage, 3 model or SAE file, 4 device, 5 verification, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Io { .. } | Error::Image { .. } | Error::Plan { .. } => 1,
            Error::Usage(_) | Error::Unserved(_) => 2,
            Error::File { .. } | Error::Tensor { .. } | Error::Fit { .. } => 3,
            Error::Device { .. } => 4,
            Error::Verification(_) => 5,
            Error::Interrupted => 130,
        }
    }
}
