//! The heatmap methods by name, with their options.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// A heatmap method and its options. Layers count from 0, or from the end when negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Grad-ECLIP (Zhao et al., ICML 2024). `single_head`: the authors' code, which recomputes the last block with one head.
    GradEclip {
        /// Recompute the last block with one head of the whole width.
        single_head: bool,
    },
    /// The CLS row of one block's attention, mean over heads.
    Attention {
        /// The block.
        layer: isize,
    },
    /// Attention rollout (Abnar & Zuidema, 2020).
    Rollout {
        /// The first block that takes part.
        from: isize,
    },
    /// Generic attention explainability (Chefer et al., ICCV 2021).
    Chefer {
        /// The first block that takes part.
        from: isize,
    },
    /// LeGrad (Bousselham et al., 2024).
    Legrad {
        /// The first block that takes part.
        from: isize,
    },
    /// Grad-CAM on the tokens that enter a block.
    GradCam {
        /// The block whose input is the feature map.
        layer: isize,
    },
    /// Largest absolute pixel gradient over the channels.
    Gradient,
    /// Pixel times gradient, summed over the channels.
    GradientXInput,
    /// Integrated gradients from the mean colour (Sundararajan et al., 2017), Gauss-Legendre nodes.
    IntegratedGradients {
        /// Number of nodes.
        steps: usize,
    },
    /// Mean pixel gradient under Gaussian noise (Smilkov et al., 2017).
    SmoothGrad {
        /// Number of noisy copies.
        samples: usize,
        /// Standard deviation of the noise as a share of the pixel range.
        sigma: f64,
    },
}

/// A method together with the text it was asked for by, which names it in results.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedMethod {
    /// As the user wrote it.
    pub given: String,
    /// What it means.
    pub method: Method,
}

/// All method names, as the command line knows them.
pub const METHOD_NAMES: [&str; 10] = [
    "grad-eclip",
    "attention",
    "rollout",
    "chefer",
    "legrad",
    "grad-cam",
    "gradient",
    "gradient-x-input",
    "integrated-gradients",
    "smoothgrad",
];

impl Method {
    /// Whether the map lies on the pixel grid instead of the patch grid.
    pub fn on_pixels(self) -> bool {
        matches!(
            self,
            Method::Gradient | Method::GradientXInput | Method::IntegratedGradients { .. } | Method::SmoothGrad { .. }
        )
    }

    /// Whether the map is the same for every text.
    pub fn ignores_score(self) -> bool {
        matches!(self, Method::Attention { .. } | Method::Rollout { .. })
    }

    /// The options that decide the result, defaults included, as `name:key=value,...`.
    pub fn canonical(self) -> String {
        match self {
            Method::GradEclip { single_head } => {
                format!("grad-eclip:heads={}", if single_head { "single" } else { "model" })
            }
            Method::Attention { layer } => format!("attention:layer={layer}"),
            Method::Rollout { from } => format!("rollout:from={from}"),
            Method::Chefer { from } => format!("chefer:from={from}"),
            Method::Legrad { from } => format!("legrad:from={from}"),
            Method::GradCam { layer } => format!("grad-cam:layer={layer}"),
            Method::Gradient => "gradient".into(),
            Method::GradientXInput => "gradient-x-input".into(),
            Method::IntegratedGradients { steps } => format!("integrated-gradients:steps={steps}"),
            Method::SmoothGrad { samples, sigma } => format!("smoothgrad:samples={samples},sigma={sigma}"),
        }
    }
}

impl FromStr for NamedMethod {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self> {
        let (name, rest) = given.split_once(':').unwrap_or((given, ""));
        let mut options = Options::parse(given, rest)?;
        let method = match name {
            "grad-eclip" => Method::GradEclip { single_head: options.choice("heads", ["model", "single"])? == 1 },
            "attention" => Method::Attention { layer: options.number("layer", -1)? },
            "rollout" => Method::Rollout { from: options.number("from", 0)? },
            "chefer" => Method::Chefer { from: options.number("from", 0)? },
            "legrad" => Method::Legrad { from: options.number("from", -2)? },
            "grad-cam" => Method::GradCam { layer: options.number("layer", -1)? },
            "gradient" => Method::Gradient,
            "gradient-x-input" => Method::GradientXInput,
            "integrated-gradients" => Method::IntegratedGradients { steps: options.bounded("steps", 50, 1, 1000)? },
            "smoothgrad" => {
                let samples = options.bounded("samples", 50, 1, 10_000)?;
                let sigma: f64 = options.number("sigma", 0.15)?;
                if !(0.0..=10.0).contains(&sigma) {
                    return Err(Error::usage(format!("method `{given}`: sigma must lie between 0 and 10")));
                }
                Method::SmoothGrad { samples, sigma }
            }
            _ => {
                return Err(Error::usage(format!(
                    "unknown method `{name}`: expected one of {}",
                    METHOD_NAMES.join(", ")
                )));
            }
        };
        options.finish()?;
        Ok(NamedMethod { given: given.to_owned(), method })
    }
}

impl fmt::Display for NamedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

/// `key=value,...`, each key taken once.
struct Options<'a> {
    given: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn parse(given: &'a str, rest: &'a str) -> Result<Self> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| Error::usage(format!("method `{given}`: expected key=value, found `{part}`")))?;
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(Error::usage(format!("method `{given}`: `{key}` is given twice")));
            }
            pairs.push((key, value));
        }
        Ok(Options { given, pairs })
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(k, _)| *k == key)?;
        Some(self.pairs.swap_remove(at).1)
    }

    fn number<N: FromStr>(&mut self, key: &str, default: N) -> Result<N> {
        match self.take(key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Error::usage(format!("method `{}`: `{text}` is no value for `{key}`", self.given))),
        }
    }

    fn bounded(&mut self, key: &str, default: usize, low: usize, high: usize) -> Result<usize> {
        let value = self.number(key, default)?;
        if !(low..=high).contains(&value) {
            return Err(Error::usage(format!("method `{}`: {key} must lie between {low} and {high}", self.given)));
        }
        Ok(value)
    }

    fn choice<const N: usize>(&mut self, key: &str, names: [&str; N]) -> Result<usize> {
        match self.take(key) {
            None => Ok(0),
            Some(text) => names
                .iter()
                .position(|n| *n == text)
                .ok_or_else(|| Error::usage(format!("method `{}`: {key} must be {}", self.given, names.join(" or ")))),
        }
    }

    fn finish(self) -> Result<()> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::usage(format!("method `{}`: unknown option `{key}`", self.given))),
        }
    }
}

/// Resolves a layer counted from 0, or from the end when negative, among `layers` blocks.
///
/// # Errors
/// [`Error::Usage`] naming `what` when there is no such block.
pub fn resolve_layer(layer: isize, layers: usize, what: &str) -> Result<usize> {
    let resolved = if layer < 0 { layer.checked_add_unsigned(layers) } else { Some(layer) };
    match resolved.and_then(|l| usize::try_from(l).ok()) {
        Some(l) if l < layers => Ok(l),
        _ => Err(Error::usage(format!(
            "{what}: layer {layer} is out of range: the model has blocks 0 to {} (or -{layers} to -1)",
            layers - 1
        ))),
    }
}
