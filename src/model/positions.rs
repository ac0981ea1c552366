//! Position embeddings for grids other than the trained one.

/// Interpolates the trained positions (1 + side * side, D) to `rows` x `cols` patches; the CLS row stays.
///
/// Bicubic with a = -0.75, half-pixel centres (align_corners = false), clamped borders and no antialiasing: what
/// Hugging Face's `interpolate_pos_encoding` and Grad-ECLIP do through torch.nn.functional.interpolate.
/// Returns (1 + rows * cols, D).
pub fn interpolate_positions(trained: &[f32], side: usize, width: usize, rows: usize, cols: usize) -> Vec<f64> {
    let at = |token: usize| trained[token * width..][..width].iter().map(|&v| f64::from(v));
    let mut out: Vec<f64> = at(0).collect();
    if rows == side && cols == side {
        out.extend((1..=side * side).flat_map(at));
        return out;
    }
    let (vertical, horizontal) = (taps(side, rows), taps(side, cols));
    for (ys, wy) in &vertical {
        for (xs, wx) in &horizontal {
            let mut token = vec![0.0; width];
            for (&y, &wy) in ys.iter().zip(wy) {
                for (&x, &wx) in xs.iter().zip(wx) {
                    token.iter_mut().zip(at(1 + y * side + x)).for_each(|(t, v)| *t += wy * wx * v);
                }
            }
            out.extend(token);
        }
    }
    out
}

/// For each output position its four source positions and weights.
fn taps(from: usize, to: usize) -> Vec<([usize; 4], [f64; 4])> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0; // |t| <= 1
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A; // 1 < |t| < 2
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let source = (i as f64 + 0.5) * scale - 0.5;
            let (floor, t) = (source.floor(), source - source.floor());
            let clamp = |offset: f64| (floor + offset).clamp(0.0, (from - 1) as f64) as usize;
            ([clamp(-1.0), clamp(0.0), clamp(1.0), clamp(2.0)], [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trained_grid_is_left_alone_and_weights_sum_to_one() {
        let trained: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let same = interpolate_positions(&trained, 3, 1, 3, 3);
        assert_eq!(same, (0..10).map(f64::from).collect::<Vec<_>>());
        for (_, weights) in taps(7, 12) {
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn equals_torch() {
        // F.interpolate(arange(9).reshape(1,1,3,3).double(), size=(2,4), mode="bicubic", align_corners=False)
        let trained: Vec<f32> = std::iter::once(100.0).chain((0..9).map(|v| v as f32)).collect();
        let ours = interpolate_positions(&trained, 3, 1, 2, 4);
        let torch = TORCH_2X4;
        assert_eq!(ours[0], 100.0);
        for (a, b) in ours[1..].iter().zip(torch) {
            assert!((a - b).abs() < 1e-12, "{ours:?}");
        }
    }

    const TORCH_2X4: [f64; 8] = [
        0.50244140625,
        1.10400390625,
        2.04443359375,
        2.64599609375,
        5.35400390625,
        5.95556640625,
        6.89599609375,
        7.49755859375,
    ];
}
