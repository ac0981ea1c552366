//! One SAE of several, by a rule that is stated beside the result.

use std::{fmt, str::FromStr};

use super::Report;
use crate::{Error, Result};

/// What decides among the SAEs that qualify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// The lowest FVU.
    Fvu,
    /// The lowest L0.
    L0,
    /// The highest cosine of the image embedding with its own.
    Cosine,
    /// The highest zero-shot accuracy.
    Accuracy,
    /// The most contrastive loss recovered.
    Recovered,
}

impl Criterion {
    const ALL: [(Criterion, &str, &str); 5] = [
        (Criterion::Fvu, "fvu", "lowest FVU"),
        (Criterion::L0, "l0", "lowest L0"),
        (Criterion::Cosine, "cosine", "highest cosine of the image embedding with its own"),
        (Criterion::Accuracy, "accuracy", "highest zero-shot accuracy"),
        (Criterion::Recovered, "recovered", "most contrastive loss recovered"),
    ];

    /// What is made small; `None` where it was not measured.
    fn cost(self, report: &Report) -> Option<f64> {
        let cost = match self {
            Criterion::Fvu => report.reconstruction.fvu,
            Criterion::L0 => report.reconstruction.l0,
            Criterion::Cosine => -report.alignment.cosine,
            Criterion::Accuracy => -report.zero_shot.as_ref()?.accuracy.spliced,
            Criterion::Recovered => -report.contrastive.as_ref()?.recovered,
        };
        Some(cost).filter(|cost| !cost.is_nan())
    }
}

impl FromStr for Criterion {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let names = || Criterion::ALL.map(|(_, name, _)| name).join(", ");
        let found = Criterion::ALL.into_iter().find(|(_, name, _)| *name == s).map(|(criterion, ..)| criterion);
        found.ok_or_else(|| Error::usage(format!("unknown criterion `{s}`: expected one of {}", names())))
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Criterion::ALL.iter().filter(|(criterion, ..)| criterion == self).try_for_each(|(_, name, _)| f.write_str(name))
    }
}

/// Which SAE is picked: among those that qualify the best by one criterion, of equals the first.
///
/// An SAE qualifies whose latents live and whose splice leaves CLIP what it is: by the mean cosine of the image embedding
/// with its own and, where images have captions, by the contrastive loss recovered. Neither alone would do: the loss of a
/// few pairs is soon recovered, and a cosine does not tell which directions texts need.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What decides.
    pub by: Criterion,
    /// The largest share of dead latents.
    pub most_dead: f64,
    /// The least of either.
    pub least_fidelity: f64,
}

/// What a rule says of some SAEs.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The one that is picked, if any qualifies.
    pub picked: Option<usize>,
    /// For each SAE why it does not qualify.
    pub excluded: Vec<Option<String>>,
}

impl Rule {
    /// Applies the rule.
    pub fn choose(&self, reports: &[Report]) -> Choice {
        let excluded: Vec<Option<String>> = reports.iter().map(|report| self.excludes(report)).collect();
        let costs = reports.iter().map(|report| self.by.cost(report)).zip(&excluded).enumerate();
        let qualified = costs.filter_map(|(i, (cost, excluded))| cost.filter(|_| excluded.is_none()).map(|c| (i, c)));
        let picked = qualified.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i);
        Choice { picked, excluded }
    }

    fn excludes(&self, report: &Report) -> Option<String> {
        if report.firing.dead > self.most_dead {
            return Some(format!("dead share {:.4}", report.firing.dead));
        }
        let recovered = report.contrastive.as_ref().map(|contrastive| ("loss recovered", contrastive.recovered));
        let fidelities = [Some(("embedding cosine", report.alignment.cosine)), recovered];
        // What could not be measured does not qualify either.
        let is_low = |fidelity: f64| fidelity.is_nan() || fidelity < self.least_fidelity;
        let low = fidelities.into_iter().flatten().find(|(_, fidelity)| is_low(*fidelity));
        low.map(|(what, fidelity)| format!("{what} {fidelity:.4}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = Criterion::ALL.iter().find(|(criterion, ..)| *criterion == self.by).map_or("", |(.., words)| words);
        write!(
            f,
            "{best} among SAEs with a dead share of at most {} and a fidelity of at least {} (mean cosine of the image \
             embedding with its own and, with captions, contrastive loss recovered)",
            self.most_dead, self.least_fidelity
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae_eval::{Ablation, Alignment, ContrastiveReport, Firing, Reconstruction};

    fn report(fvu: f64, dead: f64, cosine: f64, recovered: Option<f64>) -> Report {
        let mut report = Report {
            reconstruction: Reconstruction::default().report(),
            firing: Firing::new(4).report(1e-5),
            alignment: Alignment::new(0).report(&[]),
            zero_shot: None,
            contrastive: recovered.map(|recovered| ContrastiveReport {
                pairs: 2,
                batch: 2,
                loss: Ablation::default(),
                recovered,
            }),
        };
        report.reconstruction.fvu = fvu;
        report.firing.dead = dead;
        report.alignment.cosine = cosine;
        report
    }

    fn rule(by: &str) -> Rule {
        Rule { by: by.parse().unwrap(), most_dead: 0.1, least_fidelity: 0.9 }
    }

    #[test]
    fn the_best_of_those_that_qualify_is_picked() {
        let reports = [
            report(0.05, 0.2, 0.99, None),
            report(0.3, 0.1, 0.99, None),
            report(0.2, 0.0, 0.9, None),
            report(0.2, 0.0, 0.95, None),
            report(0.01, 0.0, 0.8, None),
        ];
        let choice = rule("fvu").choose(&reports);
        assert_eq!(choice.picked, Some(2));
        let excluded: Vec<&str> = choice.excluded.iter().map(|e| e.as_deref().unwrap_or("")).collect();
        assert_eq!(excluded, ["dead share 0.2000", "", "", "", "embedding cosine 0.8000"]);
        assert_eq!(rule("cosine").choose(&reports).picked, Some(1));
        // Nothing was measured that could decide.
        assert_eq!(rule("recovered").choose(&reports).picked, None);
    }

    #[test]
    fn captions_count_too_and_nan_never_qualifies() {
        let reports = [
            report(0.1, 0.0, 0.99, Some(0.5)),
            report(0.2, 0.0, 0.95, Some(0.95)),
            report(0.0, 0.0, 1.0, Some(f64::NAN)),
        ];
        let choice = rule("fvu").choose(&reports);
        assert_eq!((choice.picked, choice.excluded[0].as_deref()), (Some(1), Some("loss recovered 0.5000")));
        assert!(choice.excluded[2].is_some());
        assert_eq!(rule("recovered").choose(&reports).picked, Some(1));
        assert_eq!(rule("fvu").choose(&reports[..1]).picked, None);
    }

    #[test]
    fn names_go_there_and_back() {
        for (criterion, name, words) in Criterion::ALL {
            assert_eq!((criterion.to_string().as_str(), name.parse::<Criterion>().unwrap()), (name, criterion));
            assert!(Rule { by: criterion, ..rule("l0") }.to_string().starts_with(words));
        }
        assert!("ev".parse::<Criterion>().unwrap_err().to_string().contains("fvu, l0, cosine"));
    }
}
