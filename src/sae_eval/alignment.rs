//! What a splice does to image embeddings, and so to similarities with texts and to zero-shot classes.

use serde::Serialize;

use super::{contrastive::cross_entropy, dot, unit};

/// A measure of CLIP itself, with the splice, and with the spliced tokens set to zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ablation {
    /// CLIP itself.
    pub original: f64,
    /// With the splice.
    pub spliced: f64,
    /// With zero ablation.
    pub zero_ablated: f64,
}

impl Ablation {
    /// `(zero_ablated - spliced) / (zero_ablated - original)`; NaN where zero ablation changes nothing.
    pub fn recovered(&self) -> f64 {
        (self.zero_ablated - self.spliced) / (self.zero_ablated - self.original)
    }

    /// The three after a function of each.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Ablation { original: f(self.original), spliced: f(self.spliced), zero_ablated: f(self.zero_ablated) }
    }

    pub(super) fn add(&mut self, of: [f64; 3]) {
        let [original, spliced, zero_ablated] = of;
        self.original += original;
        self.spliced += spliced;
        self.zero_ablated += zero_ablated;
    }
}

/// Sums over images.
#[derive(Debug, Clone)]
pub struct Alignment {
    images: usize,
    cosines: [f64; 2],
    least: f64,
    /// (Q): sum of the change of each text's cosine, and of its size.
    shifts: Vec<[f64; 2]>,
    classified: usize,
    correct: Ablation,
    cross_entropy: Ablation,
}

impl Alignment {
    /// For so many texts.
    pub fn new(texts: usize) -> Self {
        Alignment {
            images: 0,
            cosines: [0.0; 2],
            least: f64::INFINITY,
            shifts: vec![[0.0; 2]; texts],
            classified: 0,
            correct: Ablation::default(),
            cross_entropy: Ablation::default(),
        }
    }

    /// Adds an image by its embeddings (E): of CLIP, with the splice, zero-ablated. `texts` (Q,E) and `classes` (K,E)
    /// have rows of length 1, `class` is the image's own, `scale` is `exp(logit_scale)`.
    pub fn add(&mut self, embeddings: [&[f64]; 3], texts: &[f64], classes: &[f64], class: Option<usize>, scale: f64) {
        let units = embeddings.map(unit);
        let [original, spliced, zero] = &units;
        let cosine = dot(original, spliced);
        self.images += 1;
        self.cosines[0] += cosine;
        self.cosines[1] += dot(original, zero);
        self.least = self.least.min(cosine);
        let width = original.len();
        for (sums, text) in self.shifts.iter_mut().zip(texts.chunks(width)) {
            let shift = dot(spliced, text) - dot(original, text);
            sums[0] += shift;
            sums[1] += shift.abs();
        }
        let Some(class) = class.filter(|&class| class < classes.len() / width) else { return };
        self.classified += 1;
        let logits = units.map(|unit| classes.chunks(width).map(|c| scale * dot(&unit, c)).collect::<Vec<f64>>());
        // Ties go to the first class, as argmax does.
        let first_largest = |row: &[f64]| (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best });
        self.correct.add(logits.each_ref().map(|row| f64::from(first_largest(row) == Some(class))));
        self.cross_entropy.add(logits.each_ref().map(|row| cross_entropy(row.iter().copied(), row[class])));
    }

    /// The measures; `texts` are named by `labels`.
    pub fn report(&self, labels: &[String]) -> AlignmentReport {
        let n = self.images as f64;
        let texts = labels.iter().zip(&self.shifts).map(|(text, [sum, size])| TextShift {
            text: text.clone(),
            mean_shift: sum / n,
            mean_absolute_shift: size / n,
        });
        let count = self.shifts.len() as f64 * n;
        let total = |i: usize| (count > 0.0).then(|| self.shifts.iter().map(|s| s[i]).sum::<f64>() / count);
        AlignmentReport {
            cosine: self.cosines[0] / n,
            least_cosine: if self.images == 0 { f64::NAN } else { self.least },
            zero_ablated_cosine: self.cosines[1] / n,
            mean_shift: total(0),
            mean_absolute_shift: total(1),
            texts: texts.collect(),
        }
    }

    /// Zero-shot classification among `classes`, if any image has a class.
    pub fn zero_shot(&self, classes: usize) -> Option<ZeroShotReport> {
        let n = self.classified as f64;
        let cross_entropy = self.cross_entropy.map(|v| v / n);
        (self.classified > 0).then(|| ZeroShotReport {
            images: self.classified,
            classes,
            accuracy: self.correct.map(|v| v / n),
            cross_entropy,
            recovered: cross_entropy.recovered(),
        })
    }
}

/// Embeddings and similarities.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AlignmentReport {
    /// Mean cosine of the image embedding with its own after the splice.
    pub cosine: f64,
    /// The least of them.
    pub least_cosine: f64,
    /// The mean after zero ablation.
    pub zero_ablated_cosine: f64,
    /// Mean change of a text's cosine, over images and texts.
    pub mean_shift: Option<f64>,
    /// Mean size of that change.
    pub mean_absolute_shift: Option<f64>,
    /// The same by text.
    pub texts: Vec<TextShift>,
}

/// The change of one text's cosine, over the images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextShift {
    /// The text.
    pub text: String,
    /// Mean change.
    pub mean_shift: f64,
    /// Mean size of the change.
    pub mean_absolute_shift: f64,
}

/// Zero-shot classification by the most similar class name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeroShotReport {
    /// Images with a class.
    pub images: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// Share of images whose own class comes first.
    pub accuracy: Ablation,
    /// Mean cross-entropy of the softmax over the logits, natural logarithm.
    pub cross_entropy: Ablation,
    /// `(L_zero - L_spliced) / (L_zero - L)` of that cross-entropy.
    pub recovered: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_shifts_and_classes_are_those_computed_by_hand() {
        let mut sums = Alignment::new(1);
        let axes = [1.0, 0.0, 0.0, 1.0];
        // The splice turns the first image by the angle of (0.6, 0.8), towards the wrong class; lengths do not matter.
        sums.add([&[2.0, 0.0], &[3.0, 4.0], &[0.0, 0.0]], &[0.0, 1.0], &axes, Some(0), 1.0);
        sums.add([&[0.0, 1.0], &[0.0, 5.0], &[0.0, 0.0]], &[0.0, 1.0], &axes, Some(1), 1.0);
        sums.add([&[1.0, 0.0], &[-1.0, 0.0], &[1.0, 0.0]], &[0.0, 1.0], &axes, None, 1.0);
        let report = sums.report(&["up".into()]);
        assert!((report.cosine - 0.2).abs() < 1e-15, "{}", report.cosine);
        assert_eq!(report.least_cosine, -1.0);
        assert!((report.zero_ablated_cosine - 1.0 / 3.0).abs() < 1e-15);
        let shift = report.mean_shift.unwrap();
        assert!((shift - 0.8 / 3.0).abs() < 1e-15, "{shift}");
        assert_eq!((report.mean_absolute_shift, report.texts[0].text.as_str()), (Some(shift), "up"));

        let zero_shot = sums.zero_shot(2).unwrap();
        assert_eq!((zero_shot.images, zero_shot.classes), (2, 2));
        // Of two equal logits the first class comes first: right once.
        assert_eq!(zero_shot.accuracy, Ablation { original: 1.0, spliced: 0.5, zero_ablated: 0.5 });
        let softplus = |v: f64| v.exp().ln_1p();
        let loss = zero_shot.cross_entropy;
        assert!((loss.original - softplus(-1.0)).abs() < 1e-15);
        assert!((loss.spliced - (softplus(0.2) + softplus(-1.0)) / 2.0).abs() < 1e-15);
        assert!((loss.zero_ablated - 2f64.ln()).abs() < 1e-15);
        assert!(
            (zero_shot.recovered - (loss.zero_ablated - loss.spliced) / (loss.zero_ablated - loss.original)).abs()
                < 1e-15
        );
    }

    #[test]
    fn without_texts_or_classes_there_is_nothing_to_report_of_them() {
        let sums = Alignment::new(0);
        assert!(sums.report(&[]).mean_shift.is_none() && sums.zero_shot(0).is_none());
    }
}
