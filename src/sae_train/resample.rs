//! New directions for dead latents (Bricken et al. 2023, "Towards Monosemanticity", appendix on neuron resampling).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::parameters::Parameters;

/// Length of a new encoder row, as a share of the mean length of living ones.
const ENCODER_SHARE: f64 = 0.2;

/// Points every dead latent along the error of a token, drawn with a probability that goes with the square of its loss.
/// `errors` is (N,D). `log_theta` is where thresholds start. Moments of the rows become 0. If no error is left to point
/// at, nothing changes.
pub(super) fn resample(
    parameters: &mut Parameters<f32>,
    moments: &mut [Parameters<f32>; 2],
    dead: &[u32],
    errors: &[f32],
    log_theta: f32,
    (seed, step): (u64, usize),
) {
    let d = parameters.width;
    let norm = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let norms: Vec<f64> = errors.chunks_exact(d).map(norm).collect();
    let weights = norms.iter().scan(0.0, |sum, norm| {
        *sum += norm.powi(4);
        Some(*sum)
    });
    let weights: Vec<f64> = weights.collect();
    let Some(&total) = weights.last().filter(|total| total.is_finite() && **total > 0.0) else { return };
    let living: Vec<f64> = (0..parameters.latents())
        .filter(|&i| dead.binary_search(&(i as u32)).is_err())
        .map(|i| norm(&parameters.encoder[i * d..][..d]))
        .collect();
    // Without a living latent, as if they had the length of decoder rows.
    let length = if living.is_empty() { 1.0 } else { living.iter().sum::<f64>() / living.len() as f64 };

    // A stream of its own for every step, so that nothing of the generator need be saved.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step as u64 + 1);
    for i in dead.iter().map(|&i| i as usize) {
        let at = rng.random_range(0.0..total);
        let token = weights.partition_point(|sum| *sum <= at);
        let row = i * d..(i + 1) * d;
        let direction = errors[token * d..][..d].iter().map(|v| f64::from(*v) / norms[token]);
        for (j, v) in row.clone().zip(direction) {
            parameters.decoder[j] = v as f32;
            parameters.encoder[j] = (ENCODER_SHARE * length * v) as f32;
        }
        parameters.encoder_bias[i] = 0.0;
        if let Some(theta) = parameters.log_theta.get_mut(i) {
            *theta = log_theta;
        }
        for moments in moments.iter_mut() {
            moments.encoder[row.clone()].fill(0.0);
            moments.decoder[row.clone()].fill(0.0);
            moments.encoder_bias[i] = 0.0;
            if let Some(moment) = moments.log_theta.get_mut(i) {
                *moment = 0.0;
            }
        }
    }
}
