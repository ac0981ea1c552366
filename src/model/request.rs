//! What a user asks for: texts, score, methods, SAE edits. Names are those of the command line.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The scalar that is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Cosine of image and text embedding.
    Cosine,
    /// `exp(logit_scale)` times the cosine.
    Logit,
    /// Softmax over the given texts of their logits.
    Softmax,
    /// Sum of one SAE latent over the tokens in scope.
    Latent(usize),
}

impl FromStr for Score {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "cosine" => Ok(Score::Cosine),
            "logit" => Ok(Score::Logit),
            "softmax" => Ok(Score::Softmax),
            _ => match s.strip_prefix("latent:").map(str::parse) {
                Some(Ok(id)) => Ok(Score::Latent(id)),
                _ => Err(Error::usage(format!("unknown score `{s}`: expected cosine, logit, softmax or latent:ID"))),
            },
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Score::Cosine => f.write_str("cosine"),
            Score::Logit => f.write_str("logit"),
            Score::Softmax => f.write_str("softmax"),
            Score::Latent(id) => write!(f, "latent:{id}"),
        }
    }
}

/// Which tokens the SAE reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    /// CLS and all patches.
    All,
    /// CLS alone.
    Cls,
    /// All patches.
    Patches,
    /// The listed patches (row-major, 0-based, CLS not counted).
    List(Vec<usize>),
}

impl Tokens {
    /// For each of `tokens` tokens (CLS first) whether it is in scope.
    ///
    /// # Errors
    /// A listed patch that does not exist.
    pub fn mask(&self, tokens: usize) -> Result<Vec<bool>> {
        let mut mask = vec![false; tokens];
        match self {
            Tokens::All => mask.fill(true),
            Tokens::Cls => mask[0] = true,
            Tokens::Patches => mask[1..].fill(true),
            Tokens::List(patches) => {
                for &p in patches {
                    *mask.get_mut(p + 1).ok_or_else(|| {
                        Error::usage(format!(
                            "--tokens: patch {p} is out of range: the image has {} patches",
                            tokens - 1
                        ))
                    })? = true;
                }
            }
        }
        Ok(mask)
    }
}

impl FromStr for Tokens {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "all" => Ok(Tokens::All),
            "cls" => Ok(Tokens::Cls),
            "patches" => Ok(Tokens::Patches),
            _ => {
                let list = s.strip_prefix("patches:").ok_or_else(|| {
                    Error::usage(format!("unknown tokens `{s}`: expected all, cls, patches or patches:I,J,..."))
                })?;
                Ok(Tokens::List(parse_ids(list, s)?))
            }
        }
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tokens::All => f.write_str("all"),
            Tokens::Cls => f.write_str("cls"),
            Tokens::Patches => f.write_str("patches"),
            Tokens::List(list) => write!(f, "patches:{}", join(list)),
        }
    }
}

/// One change of latents: `z' = edit(z)`.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// `z' = 0`.
    Zero(Vec<usize>),
    /// `z' = factor z`.
    Scale(Vec<usize>, f64),
    /// `z' = value`, also where the latent does not fire.
    Set(Vec<usize>, f64),
    /// `z' = z + delta`, also where the latent does not fire.
    Add(Vec<usize>, f64),
    /// Every latent but these becomes 0.
    Keep(Vec<usize>),
}

impl Edit {
    /// The latents named by the edit.
    pub fn latents(&self) -> &[usize] {
        match self {
            Edit::Zero(ids) | Edit::Keep(ids) | Edit::Scale(ids, _) | Edit::Set(ids, _) | Edit::Add(ids, _) => ids,
        }
    }
}

impl FromStr for Edit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::usage(format!(
                "unknown edit `{s}`: expected zero:ID,..., scale:ID,...=FACTOR, set:ID,...=VALUE, add:ID,...=DELTA or keep:ID,..."
            ))
        };
        let (kind, rest) = s.split_once(':').ok_or_else(bad)?;
        let valued = || -> Result<(Vec<usize>, f64)> {
            let (ids, value) = rest.split_once('=').ok_or_else(bad)?;
            let value: f64 = value.trim().parse().map_err(|_| bad())?;
            if !value.is_finite() {
                return Err(bad());
            }
            Ok((parse_ids(ids, s)?, value))
        };
        match kind {
            "zero" => Ok(Edit::Zero(parse_ids(rest, s)?)),
            "keep" => Ok(Edit::Keep(parse_ids(rest, s)?)),
            "scale" => valued().map(|(ids, v)| Edit::Scale(ids, v)),
            "set" => valued().map(|(ids, v)| Edit::Set(ids, v)),
            "add" => valued().map(|(ids, v)| Edit::Add(ids, v)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::Zero(ids) => write!(f, "zero:{}", join(ids)),
            Edit::Keep(ids) => write!(f, "keep:{}", join(ids)),
            Edit::Scale(ids, v) => write!(f, "scale:{}={v}", join(ids)),
            Edit::Set(ids, v) => write!(f, "set:{}={v}", join(ids)),
            Edit::Add(ids, v) => write!(f, "add:{}={v}", join(ids)),
        }
    }
}

fn parse_ids(list: &str, whole: &str) -> Result<Vec<usize>> {
    list.split(',')
        .map(|id| id.trim().parse().map_err(|_| Error::usage(format!("`{id}` in `{whole}` is not an index"))))
        .collect()
}

fn join(ids: &[usize]) -> String {
    ids.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// What is put back into the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Splice {
    /// `x' = decode(z')`: the reconstruction alone.
    Replace,
    /// `x' = x + decode(z') - decode(z)`: what the SAE misses stays.
    KeepError,
}

/// How the gradient passes the splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Through {
    /// The true derivative of the spliced forward.
    Exact,
    /// The reconstruction error is a constant: the gradient passes through the latents alone.
    Detached,
    /// Straight-through: the gradient passes unchanged.
    Straight,
}

/// Parses the names shared by the command line and fixtures, and prints them back.
macro_rules! names {
    ($type:ident, $what:literal, $($variant:ident = $name:literal),+) => {
        impl FromStr for $type {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                match s {
                    $($name => Ok($type::$variant),)+
                    _ => Err(Error::usage(format!(
                        concat!("unknown ", $what, " `{}`: expected {}"), s, [$($name),+].join(" or ")
                    ))),
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $name),+ })
            }
        }
    };
}
names!(Splice, "splice", Replace = "replace", KeepError = "keep-error");
names!(Through, "through mode", Exact = "exact", Detached = "detached", Straight = "straight");
