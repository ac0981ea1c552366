//! GPU architectures: what a kernel is compiled for, and what it needs.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// A target of the compiler, such as `sm_80` or `sm_90a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// Compute capability, major times ten plus minor.
    pub number: u32,
    /// Whether it has the instructions of this generation alone (`a`): `wgmma` of sm_90a, for example.
    pub is_specific: bool,
}

impl Architecture {
    /// What a device of this compute capability is compiled for: all of its own instructions.
    pub fn of(number: u32) -> Self {
        Architecture { number, is_specific: number >= 90 }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number, if self.is_specific { "a" } else { "" })
    }
}

impl FromStr for Architecture {
    type Err = Error;

    /// Reads `sm_90a`, or `90a`.
    fn from_str(s: &str) -> Result<Self> {
        let name = s.strip_prefix("sm_").unwrap_or(s);
        let digits = name.strip_suffix('a').unwrap_or(name);
        match digits.parse() {
            Ok(number) if (10..1000).contains(&number) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Architecture { number, is_specific: digits.len() < name.len() })
            }
            _ => Err(Error::usage(format!("unknown architecture `{s}`: expected one such as sm_80 or sm_90a"))),
        }
    }
}

/// What a kernel asks of the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Any,
    /// This compute capability or a newer one.
    From(u32),
    /// The instructions of one generation.
    Only(Architecture),
}

impl Needs {
    /// The start of a card's `needs` line: `any GPU`, `sm_80+` or `sm_90a`.
    pub fn parse(line: &str) -> Option<Self> {
        if line.starts_with("any GPU") {
            return Some(Needs::Any);
        }
        let name = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '+').next()?;
        if !name.starts_with("sm_") {
            return None;
        }
        let (name, is_open) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
        let architecture: Architecture = name.parse().ok()?;
        match (is_open, architecture.is_specific) {
            (true, false) => Some(Needs::From(architecture.number)),
            (false, true) => Some(Needs::Only(architecture)),
            _ => None,
        }
    }

    /// Whether a kernel with this need can be compiled for `architecture`.
    pub fn allow(self, architecture: Architecture) -> bool {
        match self {
            Needs::Any => true,
            Needs::From(number) => architecture.number >= number,
            Needs::Only(only) => architecture == only,
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Needs::Any => f.write_str("any"),
            Needs::From(number) => write!(f, "sm_{number}+"),
            Needs::Only(architecture) => architecture.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["sm_80", "sm_90a", "sm_120a"] {
            assert_eq!(name.parse::<Architecture>().unwrap().to_string(), name);
        }
        assert_eq!("90a".parse::<Architecture>().unwrap(), Architecture::of(90));
        assert_eq!(Architecture::of(86).to_string(), "sm_86");
        for wrong in ["", "sm_", "sm_a", "sm_9", "sm_+80", "compute_80", "sm_80b", "sm_99999"] {
            assert_eq!(wrong.parse::<Architecture>().unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn needs_are_read_from_the_start_of_a_line() {
        let allowed = |line: &str, name: &str| Needs::parse(line).unwrap().allow(name.parse().unwrap());
        assert!(allowed("any GPU; any D", "sm_75"));
        assert!(!allowed("sm_80+; K a multiple of 8", "sm_75"));
        assert!(allowed("sm_80+", "sm_90a"));
        assert!(allowed("sm_90a (wgmma)", "sm_90a"));
        for other in ["sm_90", "sm_100a", "sm_80"] {
            assert!(!allowed("sm_90a", other));
        }
        for wrong in ["", "a GPU", "sm_80", "sm_90a+", "80+"] {
            assert_eq!(Needs::parse(wrong), None, "{wrong}");
        }
    }
}
