//! How often latents fire.

use serde::Serialize;

/// Bins of the frequency histogram.
pub const BINS: usize = 14;
/// Bins per decade.
const PER_DECADE: f64 = 2.0;

/// log10 of the frequency at which bin `i` begins; the bins end at 0, where a latent fires on every token. The first bin
/// also holds what is below it.
pub fn bin_edge(i: usize) -> f64 {
    (i as f64 - BINS as f64) / PER_DECADE
}

/// Counts over tokens and images.
#[derive(Debug, Clone)]
pub struct Firing {
    /// (S): tokens on which each latent fired.
    counts: Vec<u64>,
    /// (S): the last image in which it fired, from 1.
    last: Vec<u64>,
    tokens: u64,
    images: u64,
    /// Sum over images and the latents that fire in them of the share of tokens on which they do.
    spread: f64,
    /// Number of those pairs.
    pairs: u64,
}

impl Firing {
    /// Of an SAE of so many latents.
    pub fn new(latents: usize) -> Self {
        Firing { counts: vec![0; latents], last: vec![0; latents], tokens: 0, images: 0, spread: 0.0, pairs: 0 }
    }

    /// Adds an image: for each token in scope the latents that fire.
    pub fn add<L: IntoIterator<Item = u32>>(&mut self, tokens: impl IntoIterator<Item = L>) {
        self.images += 1;
        let (mut here, mut active, mut distinct) = (0u64, 0u64, 0u64);
        for latents in tokens {
            here += 1;
            for id in latents {
                let id = id as usize;
                if let (Some(count), Some(last)) = (self.counts.get_mut(id), self.last.get_mut(id)) {
                    *count += 1;
                    active += 1;
                    distinct += u64::from(*last != self.images);
                    *last = self.images;
                }
            }
        }
        self.tokens += here;
        self.spread += active as f64 / here.max(1) as f64;
        self.pairs += distinct;
    }

    /// The measures. A latent is rare if it fires, but on less than `rare` of the tokens.
    pub fn report(&self, rare: f64) -> FiringReport {
        let latents = self.counts.len() as f64;
        let frequency = |count: u64| count as f64 / self.tokens as f64;
        let share = |keep: &dyn Fn(u64) -> bool| self.counts.iter().filter(|&&c| keep(c)).count() as f64 / latents;
        let mut histogram = vec![0; BINS];
        let mut logs = 0.0;
        let living = self.counts.iter().filter(|&&c| c > 0);
        for &count in living.clone() {
            let log = frequency(count).log10();
            logs += log;
            let bin = (log * PER_DECADE + BINS as f64).floor().clamp(0.0, (BINS - 1) as f64);
            histogram[bin as usize] += 1;
        }
        let fired = living.count();
        FiringReport {
            latents: self.counts.len(),
            fired,
            dead: share(&|c| c == 0),
            rare: share(&|c| c > 0 && frequency(c) < rare),
            rare_below: rare,
            dense: share(&|c| frequency(c) > DENSE),
            mean_log10_frequency: logs / fired as f64,
            image_density: self.spread / self.pairs as f64,
            histogram,
        }
    }
}

/// A latent that fires on more than this share of the tokens is dense.
const DENSE: f64 = 0.1;

/// The measures of [`Firing`]. Shares are of all latents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FiringReport {
    /// `S`.
    pub latents: usize,
    /// Latents that fired at all.
    pub fired: usize,
    /// Share that never fired on the evaluated tokens.
    pub dead: f64,
    /// Share that fired, but on less than `rare_below` of the tokens. Among fewer than `1 / rare_below` tokens there is
    /// no such latent.
    pub rare: f64,
    /// The threshold of `rare`.
    pub rare_below: f64,
    /// Share that fires on more than a tenth of the tokens.
    pub dense: f64,
    /// Mean over the latents that fired of log10 of the share of tokens on which they did.
    pub mean_log10_frequency: f64,
    /// Of an image's tokens, the share on which a latent fires that fires in the image at all: mean over such pairs.
    pub image_density: f64,
    /// (BINS): latents that fired, by log10 of their frequency; see [`bin_edge`].
    pub histogram: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of two tokens: latent 0 fires on all four, 1 on both of the first, 2 on one; 3 and 4 never.
    #[test]
    fn shares_and_densities_are_those_computed_by_hand() {
        let mut firing = Firing::new(5);
        firing.add([vec![0, 1], vec![0, 1]]);
        firing.add([vec![0, 2], vec![0]]);
        let report = firing.report(0.3);
        assert_eq!((report.latents, report.fired, report.dead), (5, 3, 0.4));
        assert_eq!((report.rare, report.dense), (0.2, 0.6));
        assert_eq!(firing.report(0.25).rare, 0.0);
        // Shares 1, 1 in the first image; 1, 1/2 in the second.
        assert_eq!(report.image_density, 3.5 / 4.0);
        let logs = (0.5f64.log10() + 0.25f64.log10()) / 3.0;
        assert!((report.mean_log10_frequency - logs).abs() < 1e-15);
        // 1 and 1/2 lie above 10^-0.5, 1/4 below it.
        assert_eq!(report.histogram[BINS - 2..], [1, 2]);
        assert_eq!(report.histogram.iter().sum::<u64>(), 3);
    }

    #[test]
    fn bins_end_where_a_latent_fires_always() {
        assert_eq!((bin_edge(BINS), bin_edge(BINS - 2), bin_edge(0)), (0.0, -1.0, -7.0));
        let mut firing = Firing::new(1);
        (0..10).for_each(|i| firing.add([if i == 0 { vec![0] } else { vec![] }]));
        // 10^-1 itself begins a bin.
        assert_eq!(firing.report(0.0).histogram[BINS - 2], 1);
    }
}
