//! The loss in f64, dense and by full sorts, straight from its definition. It shares no code with the trainer.

use super::super::{Algorithm, parameters::Parameters};

/// What is held fixed while the loss is differentiated.
#[derive(Clone)]
pub struct Frozen {
    /// (N,D): the error that dead latents rebuild.
    pub error: Vec<f64>,
    /// (S): thresholds at which `[h > theta]` is linearised.
    pub theta: Vec<f64>,
}

/// The error (N,D) and the loss at `parameters` for the tokens `x` (N,D), scaled. `frozen`: none at the point itself.
///
/// Straight-through gradients of thresholds are the exact ones of this: `[h > theta]` is the step at the frozen theta
/// plus the change of a ramp of the kernel's width, and `z` changes by the frozen theta times that.
pub fn loss(
    algorithm: &Algorithm,
    parameters: &Parameters<f64>,
    x: &[f64],
    dead: &[u32],
    frozen: Option<&Frozen>,
) -> (Vec<f64>, f64) {
    let (d, s) = (parameters.width, parameters.latents());
    let n = x.len() / d;
    let theta: Vec<f64> = parameters.log_theta.iter().map(|v| v.exp()).collect();
    let at = frozen.map_or(&theta, |frozen| &frozen.theta);
    let h: Vec<f64> = (0..n * s)
        .map(|j| {
            let (n, i) = (j / s, j % s);
            let dot: f64 =
                (0..d).map(|k| parameters.encoder[i * d + k] * (x[n * d + k] - parameters.decoder_bias[k])).sum();
            (dot + parameters.encoder_bias[i]).max(0.0)
        })
        .collect();
    let largest = |of: &mut dyn Iterator<Item = usize>, k: usize| {
        let mut order: Vec<usize> = of.collect();
        order.sort_by(|&a, &b| h[b].total_cmp(&h[a]).then(a.cmp(&b)));
        order.truncate(k);
        order
    };
    let mut z = vec![0.0; n * s];
    let mut active = 0.0;
    let mut keep = |kept: Vec<usize>| kept.into_iter().for_each(|j| z[j] = h[j]);
    match *algorithm {
        Algorithm::Relu { .. } => keep((0..n * s).collect()),
        Algorithm::TopK { k, .. } => (0..n).for_each(|n| keep(largest(&mut (n * s..(n + 1) * s), k))),
        Algorithm::BatchTopK { k, .. } => keep(largest(&mut (0..n * s), k * n)),
        Algorithm::JumpRelu { bandwidth, .. } => {
            for j in 0..n * s {
                let ramp = |theta: f64| ((h[j] - theta) / bandwidth + 0.5).clamp(0.0, 1.0);
                let i = j % s;
                let change = ramp(theta[i]) - ramp(at[i]);
                z[j] = if h[j] > at[i] { h[j] } else { 0.0 } + at[i] * change;
                active += f64::from(u8::from(h[j] > at[i])) + change;
            }
        }
    }
    let tokens = n as f64;
    let rebuilt =
        |z: &[f64], j: usize| (0..s).map(|i| z[j / d * s + i] * parameters.decoder[i * d + j % d]).sum::<f64>();
    let error: Vec<f64> = (0..n * d).map(|j| x[j] - parameters.decoder_bias[j % d] - rebuilt(&z, j)).collect();
    let mut loss = error.iter().map(|e| e * e).sum::<f64>() / (tokens * d as f64);
    loss += match *algorithm {
        Algorithm::Relu { l1, .. } => l1 * z.iter().sum::<f64>() / tokens,
        Algorithm::JumpRelu { l0, target: None, .. } => l0 * active / tokens,
        Algorithm::JumpRelu { l0, target: Some(target), .. } => l0 * (active / tokens / target - 1.0).powi(2),
        Algorithm::TopK { aux, k_aux, .. } | Algorithm::BatchTopK { aux, k_aux, .. } => {
            let target = frozen.map_or(&error, |frozen| &frozen.error);
            let mut z = vec![0.0; n * s];
            for n in 0..n {
                let kept = largest(&mut dead.iter().map(|&i| n * s + i as usize), k_aux);
                kept.into_iter().for_each(|j| z[j] = h[j]);
            }
            let mean: Vec<f64> = (0..d).map(|k| (0..n).map(|n| target[n * d + k]).sum::<f64>() / tokens).collect();
            let spread: f64 = (0..n * d).map(|j| (target[j] - mean[j % d]).powi(2)).sum();
            aux * (0..n * d).map(|j| (target[j] - rebuilt(&z, j)).powi(2)).sum::<f64>() / spread
        }
    };
    (error, loss)
}
