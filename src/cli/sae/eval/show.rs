//! The results of an evaluation for people, as JSON lines and as a chart.

use std::path::Path;

use serde_json::{Value, json};
use vitscope::{
    Result,
    files::write_file,
    image::{Chart, ChartPanel, Curve, write_png},
    report::JsonLines,
    sae_eval::{Ablation, BINS, Candidate, Choice, FiringReport, Report, Rule, bin_edge},
};

use super::super::fit_rows;
use crate::cli::{
    console::{number, signed, table},
    inspect::listing,
};

/// One SAE, without its weights.
pub struct Evaluated {
    path: String,
    /// Its folder's name.
    name: String,
    layer: usize,
    tokens: String,
    latents: usize,
}

impl Evaluated {
    /// What is told of a candidate beside its measures.
    pub fn new(path: &Path, candidate: &Candidate) -> Self {
        let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Evaluated {
            path: path.display().to_string(),
            name,
            layer: candidate.scope.layer,
            tokens: candidate.scope.tokens.to_string(),
            latents: candidate.weights.latents,
        }
    }
}

/// Everything that came out.
pub struct Results {
    pub saes: Vec<Evaluated>,
    pub reports: Vec<Report>,
    pub rule: Rule,
    pub choice: Choice,
    pub images: usize,
    pub failed: usize,
    pub options: Value,
}

impl Results {
    /// One line for each SAE.
    pub fn lines(&self) -> Vec<Value> {
        let each = self.saes.iter().zip(&self.reports).zip(&self.choice.excluded).enumerate();
        each.map(|(i, ((sae, report), excluded))| {
            json!({
                "sae": sae.path,
                "layer": sae.layer,
                "tokens": sae.tokens,
                "latents": sae.latents,
                "images": self.images,
                "failed": self.failed,
                "reconstruction": report.reconstruction,
                "firing": report.firing,
                "bin_edges": (0..=BINS).map(bin_edge).collect::<Vec<_>>(),
                "alignment": report.alignment,
                "zero_shot": report.zero_shot,
                "contrastive": report.contrastive,
                "picked": self.choice.picked == Some(i),
                "excluded": excluded,
                "rule": self.rule.to_string(),
                "options": self.options,
            })
        })
        .collect()
    }

    /// Writes `eval.jsonl`, `frequency.png` and `frequency.svg`.
    ///
    /// # Errors
    /// Those of the files.
    pub fn write(&self, folder: &Path) -> Result<()> {
        JsonLines::with_lines(&folder.join("eval.jsonl"), &[])?.append(&self.lines())?;
        let chart = self.chart();
        write_file(&folder.join("frequency.svg"), chart.svg().as_bytes())?;
        write_png(folder.join("frequency.png"), &chart.picture()?)
    }

    /// One panel for each layer.
    fn chart(&self) -> Chart {
        let mut layers: Vec<usize> = self.saes.iter().map(|sae| sae.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let panel = |layer: usize| {
            let of_layer = self.saes.iter().zip(&self.reports).filter(|(sae, _)| sae.layer == layer);
            ChartPanel {
                title: format!("Latents by frequency, block {layer}"),
                x_label: "log10 of the share of tokens".into(),
                log: false,
                curves: of_layer
                    .map(|(sae, report)| Curve { name: sae.name.clone(), points: steps(&report.firing.histogram) })
                    .collect(),
            }
        };
        Chart { panels: layers.into_iter().map(panel).collect() }
    }

    /// A listing of one SAE, a table of several with the pick.
    pub fn human(&self) -> String {
        let mut out = match (&self.saes[..], &self.reports[..]) {
            ([sae], [report]) => self.one(sae, report),
            _ => self.table(),
        };
        let fewest = self.reports.iter().map(|r| r.reconstruction.tokens).min().unwrap_or(0);
        let rare = self.reports.first().map_or(0.0, |r| r.firing.rare_below);
        if fewest as f64 * rare < 1.0 {
            out +=
                &format!("\n{fewest} tokens are too few to tell a latent that is rarer than {rare} from a dead one.\n");
        }
        out
    }

    fn one(&self, sae: &Evaluated, report: &Report) -> String {
        let (firing, alignment) = (&report.firing, &report.alignment);
        let mut rows = vec![
            ("SAE".into(), sae.path.clone()),
            ("place".into(), format!("output of block {}, tokens {}", sae.layer, sae.tokens)),
            ("images".into(), self.images.to_string()),
        ];
        rows.extend(fit_rows(&report.reconstruction, firing.fired));
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("L0 of class tokens, of patches", {
            format!("{}, {}", known(report.reconstruction.l0_cls), known(report.reconstruction.l0_patches))
        });
        row("MSE per dimension", number(report.reconstruction.mse));
        row("latents", sae.latents.to_string());
        row("dead: never fired", number(firing.dead));
        row(&format!("rare: on less than {} of the tokens", firing.rare_below), number(firing.rare));
        row("dense: on more than 0.1 of the tokens", number(firing.dense));
        row("mean log10 frequency of those that fired", known(firing.mean_log10_frequency));
        row("share of an image's tokens where a latent fires", known(firing.image_density));
        row("image embedding's cosine, mean and least", {
            format!("{}, {}", number(alignment.cosine), number(alignment.least_cosine))
        });
        row("the same after zero ablation, mean", number(alignment.zero_ablated_cosine));
        for text in &alignment.texts {
            let sizes = format!("{} ({} in size)", signed(text.mean_shift), number(text.mean_absolute_shift));
            row(&format!("shift of the cosine to `{}`", text.text), sizes);
        }
        if let Some(zero_shot) = &report.zero_shot {
            let what = format!("zero-shot accuracy, {} classes", zero_shot.classes);
            row(&what, three(zero_shot.accuracy));
            row("zero-shot cross-entropy", three(zero_shot.cross_entropy));
            row("zero-shot cross-entropy recovered", known(zero_shot.recovered));
        }
        if let Some(contrastive) = &report.contrastive {
            row(&format!("contrastive loss, {} pairs", contrastive.pairs), three(contrastive.loss));
            row("contrastive loss recovered", known(contrastive.recovered));
        }
        if report.zero_shot.is_some() || report.contrastive.is_some() {
            row("", "original → spliced → zero-ablated; recovered = (zero − spliced) / (zero − original)".into());
        }
        format!("{}\nlatents by log10 of the share of tokens on which they fire\n{}", listing(&rows), bars(firing))
    }

    fn table(&self) -> String {
        let names = [
            "SAE",
            "layer",
            "latents",
            "L0",
            "FVU",
            "EV",
            "EV uncentred",
            "cosine",
            "dead",
            "rare",
            "embedding",
            "zero-shot",
            "recovered",
            "frequency",
        ];
        let each = self.saes.iter().zip(&self.reports);
        let rows: Vec<Vec<String>> = each
            .map(|(sae, report)| {
                let (fit, firing) = (&report.reconstruction, &report.firing);
                let missing = || "–".to_owned();
                vec![
                    sae.path.clone(),
                    sae.layer.to_string(),
                    sae.latents.to_string(),
                    format!("{:.1}", fit.l0),
                    number(fit.fvu),
                    number(fit.explained_variance),
                    number(fit.explained_variance_uncentred),
                    number(fit.cosine),
                    number(firing.dead),
                    number(firing.rare),
                    number(report.alignment.cosine),
                    report.zero_shot.as_ref().map_or_else(missing, |z| number(z.accuracy.spliced)),
                    report.contrastive.as_ref().map_or_else(missing, |c| known(c.recovered)),
                    spark(&firing.histogram),
                ]
            })
            .collect();
        let mut out = table(&names, &rows);
        out += &format!(
            "\n{} images. embedding: mean cosine of the image embedding with its own; frequency: latents by log10 of the \
             share of tokens, {} to 0.\n",
            self.images,
            bin_edge(0).to_string().replace('-', "−")
        );
        if let Some(zero_shot) = self.reports.first().and_then(|r| r.zero_shot.as_ref()) {
            out += &format!(
                "Zero-shot accuracy of the model itself: {}, {} classes.\n",
                number(zero_shot.accuracy.original),
                zero_shot.classes
            );
        }
        if let Some(contrastive) = self.reports.first().and_then(|r| r.contrastive.as_ref()) {
            out += &format!(
                "Contrastive loss of the model itself: {}, {} pairs; recovered = (L_zero − L_spliced) / (L_zero − L).\n",
                number(contrastive.loss.original),
                contrastive.pairs
            );
        }
        out += &format!("\nRule: {}.\n", self.rule);
        for (sae, reason) in self.saes.iter().zip(&self.choice.excluded) {
            if let Some(reason) = reason {
                out += &format!("Does not qualify: {} ({reason}).\n", sae.path);
            }
        }
        match self.choice.picked.and_then(|i| self.saes.get(i)) {
            Some(sae) => out += &format!("Picked: {}\n", sae.path),
            None => out += "Picked: none.\n",
        }
        out
    }
}

/// A number that may not have been measured.
fn known(v: f64) -> String {
    if v.is_nan() { "–".into() } else { number(v) }
}

fn three(of: Ablation) -> String {
    [of.original, of.spliced, of.zero_ablated].map(number).join(" → ")
}

/// The outline of a histogram.
fn steps(histogram: &[u64]) -> Vec<(f64, f64)> {
    let bins = histogram.iter().enumerate();
    let tops = bins.flat_map(|(i, &count)| [bin_edge(i), bin_edge(i + 1)].map(|x| (x, count as f64)));
    std::iter::once((bin_edge(0), 0.0)).chain(tops).chain([(0.0, 0.0)]).collect()
}

/// A histogram in one line.
fn spark(histogram: &[u64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = histogram.iter().copied().max().unwrap_or(0).max(1);
    let level =
        |count: u64| if count == 0 { '·' } else { LEVELS[((count * 8).div_ceil(most) as usize).clamp(1, 8) - 1] };
    histogram.iter().map(|&count| level(count)).collect()
}

/// A histogram with a line for each bin, from the first that is not empty.
fn bars(firing: &FiringReport) -> String {
    const WIDTH: u64 = 40;
    let most = firing.histogram.iter().copied().max().unwrap_or(0).max(1);
    let bins = firing.histogram.iter().enumerate().skip_while(|(_, count)| **count == 0);
    let text = bins.map(|(i, &count)| {
        let (low, high, bar) = (bin_edge(i), bin_edge(i + 1), "█".repeat((count * WIDTH).div_ceil(most) as usize));
        format!("{low:>5.1} to {high:>4.1}  {count:>7}  {bar}").replace('-', "−").trim_end().to_owned() + "\n"
    });
    text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_keep_small_bins_visible() {
        assert_eq!(spark(&[0, 1, 501, 1000]), "·▁▅█");
        assert_eq!(spark(&[]), "");
        let mut histogram = vec![0; BINS];
        histogram[BINS - 2..].copy_from_slice(&[80, 1]);
        let mut firing = vitscope::sae_eval::Firing::new(1).report(0.0);
        firing.histogram = histogram.clone();
        let text = bars(&firing);
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.lines().next().unwrap(), format!(" −1.0 to −0.5       80  {}", "█".repeat(40)));
        assert_eq!(text.lines().last().unwrap(), " −0.5 to  0.0        1  █");
        let outline = steps(&histogram);
        assert_eq!((outline.len(), outline[0], outline[2 * BINS - 1]), (2 * BINS + 2, (-7.0, 0.0), (-0.5, 1.0)));
    }
}
