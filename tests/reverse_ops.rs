//! Every operation's reverse against finite differences, in f64: relative error under 1e-6.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use common::Rng;
use vitscope::{
    backend::{
        Arena, AttentionShape, Backend, Code, Epilogue, EpilogueReverse, Linear, Memory, Norm, PatchGrid, Picture,
        Plan, Rows, ScoreKind, Tensor,
        cpu::{Cpu, CpuMemory},
    },
    model::{Edit, Splice, Through},
    weights::{Activation, InputNorm, SaeActivation, SaeWeights},
};

type M = CpuMemory<f64>;

/// Name, shape, and values to upload.
type Spec<'a> = (&'a str, &'a [usize], Option<&'a [f64]>);

/// Tensors that live throughout, uploaded where values are given.
fn arena<const N: usize>(specs: [Spec<'_>; N], index: &[(&str, &[usize])]) -> (M, [Tensor; N]) {
    let plan = Plan::lasting(&specs.map(|(name, shape, _)| (name, shape)), index);
    let mut m = M::new(plan, false);
    let tensors = specs.map(|(name, shape, values)| {
        let t = m.tensor(name, shape).unwrap();
        if let Some(values) = values {
            m.constant(t, values).unwrap();
        }
        t
    });
    (m, tensors)
}

const X: Cpu<f64> = Cpu::new();

#[test]
fn layer_norm() {
    let (n, d) = (3, 20);
    let mut rng = Rng::new(1);
    let norm = Norm { gain: rng.normal(d), bias: rng.normal(d), eps: 1e-5 };
    let x = rng.normal(n * d).iter().map(|v| 5.0 + 3.0 * v).collect::<Vec<_>>();
    let dy = rng.normal(n * d);
    let forward = |x: &[f64]| {
        let (mut m, [y, s, x]) = arena([("y", &[n, d], None), ("s", &[n, 2], None), ("x", &[n, d], Some(x))], &[]);
        X.layer_norm(&mut m, y, s, x.rows(d), &norm, n).unwrap();
        (m.read(y).unwrap(), m.read(s).unwrap())
    };
    let stats = forward(&x).1;
    // Two targets over the same forward rows, the second added to what is there.
    let specs: [Spec<'_>; 4] =
        [("dx", &[2 * n, d], None), ("dy", &[2 * n, d], None), ("x", &[n, d], Some(&x)), ("s", &[n, 2], Some(&stats))];
    let (mut m, [dx, g, xt, s]) = arena(specs, &[]);
    m.constant(g, &[dy.clone(), dy.clone()].concat()).unwrap();
    X.fill(&mut m, dx, 1.0).unwrap();
    X.layer_norm_reverse(&mut m, dx, g, xt.rows(d), s, &norm, n, 2 * n, true).unwrap();
    let dx: Vec<f64> = m.read(dx).unwrap().iter().map(|v| v - 1.0).collect();
    assert_eq!(dx[..n * d], dx[n * d..]);
    derivative_matches("layer_norm", &x, &dx[..n * d], |x| dot(&forward(x).0, &dy));
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn linear_with_every_epilogue() {
    let (n, k, out) = (3, 7, 5);
    let mut rng = Rng::new(2);
    let weight: Vec<f32> = rng.normal(out * k).iter().map(|&v| v as f32).collect();
    let layer = Linear { weight: X.matrix(out, k, weight).unwrap(), bias: Some(rng.normal(out)) };
    let (x, dy, residual) = (rng.normal(n * k), rng.normal(n * out), rng.normal(n * out));
    let forward = |x: &[f64], epilogue: &dyn Fn(Tensor) -> Epilogue| {
        let specs: [Spec<'_>; 3] = [("y", &[n, out], None), ("x", &[n, k], Some(x)), ("r", &[n, out], Some(&residual))];
        let (mut m, [y, x, r]) = arena(specs, &[]);
        X.linear(&mut m, y, x, &layer, epilogue(r), n).unwrap();
        m.read(y).unwrap()
    };
    let (mut m, [dx, g]) = arena([("dx", &[n, k], None), ("dy", &[n, out], Some(&dy))], &[]);
    X.linear_reverse(&mut m, dx, g, &layer, EpilogueReverse::None, n).unwrap();
    let dx = m.read(dx).unwrap();
    derivative_matches("linear", &x, &dx, |x| dot(&forward(x, &|_| Epilogue::None), &dy));
    derivative_matches("linear + residual", &x, &dx, |x| dot(&forward(x, &|r| Epilogue::Residual(r.rows(out))), &dy));

    for kind in [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh] {
        // y = act(u) with u the input of a linear layer that is the identity, then its reverse through act'.
        let identity: Vec<f32> = (0..out * out).map(|i| f32::from(i % (out + 1) == 0)).collect();
        let eye = Linear { weight: X.matrix(out, out, identity).unwrap(), bias: None };
        let u: Vec<f64> = rng.normal(n * out).iter().map(|v| 2.0 * v).collect();
        let act = |u: &[f64]| {
            let (mut m, [y, u]) = arena([("y", &[n, out], None), ("u", &[n, out], Some(u))], &[]);
            X.linear(&mut m, y, u, &eye, Epilogue::Activation(kind, None), n).unwrap();
            m.read(y).unwrap()
        };
        let specs: [Spec<'_>; 3] = [("du", &[n, out], None), ("dy", &[n, out], Some(&dy)), ("u", &[n, out], Some(&u))];
        let (mut m, [du, g, ut]) = arena(specs, &[]);
        X.linear_reverse(&mut m, du, g, &eye, EpilogueReverse::Activation(kind, ut, n), n).unwrap();
        derivative_matches(&format!("{kind:?}"), &u, &m.read(du).unwrap(), |u| dot(&act(u), &dy));
    }
}

#[test]
fn attention_of_all_rows_and_of_cls_alone() {
    for queries in [5, 1] {
        let s = AttentionShape { batch: 2, tokens: 5, queries, heads: 2, head_dim: 3, causal: false };
        let (b, t, d) = (s.batch, s.tokens, s.width());
        let mut rng = Rng::new(3);
        let qkv = rng.normal(b * t * 3 * d);
        let dy = rng.normal(b * queries * d);
        let forward = |qkv: &[f64]| {
            let specs: [Spec<'_>; 3] =
                [("o", &[b, queries, d], None), ("lse", &[b, queries, 2], None), ("qkv", &[b, t, 3 * d], Some(qkv))];
            let (mut m, [o, lse, qkv]) = arena(specs, &[]);
            X.attention(&mut m, o, lse, qkv, s).unwrap();
            (m.read(o).unwrap(), m.read(lse).unwrap())
        };
        let lse = forward(&qkv).1;
        let specs: [Spec<'_>; 4] = [
            ("dqkv", &[b, t, 3 * d], None),
            ("do", &[b, queries, d], Some(&dy)),
            ("qkv", &[b, t, 3 * d], Some(&qkv)),
            ("lse", &[b, queries, 2], Some(&lse)),
        ];
        let (mut m, [dqkv, d_o, q, l]) = arena(specs, &[]);
        X.attention_reverse(&mut m, Some(dqkv), None, d_o, q, l, s, b).unwrap();
        derivative_matches("attention", &qkv, &m.read(dqkv).unwrap(), |qkv| dot(&forward(qkv).0, &dy));
    }
}

#[test]
fn patch_embedding() {
    let grid = PatchGrid::of(5, 7, 2);
    let (b, d, t, row) = (2, 4, grid.tokens(), 12);
    let mut rng = Rng::new(4);
    let weight = X.matrix(d, row, rng.normal(d * row).iter().map(|&v| v as f32).collect()).unwrap();
    let (cls, positions) = (rng.normal(d), rng.normal(t * d));
    let (pixels, dy) = (rng.normal(b * 3 * 5 * 7), rng.normal(b * t * d));
    let forward = |pixels: &[f64]| {
        let specs: [Spec<'_>; 3] =
            [("x", &[b, t, d], None), ("p", &[b, t, row], None), ("pixels", &[b, 3, 5, 7], Some(pixels))];
        let (mut m, [x, patches, pixels]) = arena(specs, &[]);
        X.patch_embed(&mut m, x, patches, Picture::Pixels(pixels), &weight, &cls, &positions, b, grid).unwrap();
        m.read(x).unwrap()
    };
    let specs: [Spec<'_>; 3] =
        [("dpixels", &[b, 3, 5, 7], None), ("dp", &[b, t, row], None), ("dx", &[b, t, d], Some(&dy))];
    let (mut m, [dpixels, dp, dx]) = arena(specs, &[]);
    X.patch_embed_reverse(&mut m, dpixels, dp, dx, &weight, b, grid).unwrap();
    derivative_matches("patch_embed", &pixels, &m.read(dpixels).unwrap(), |p| dot(&forward(p), &dy));
}

#[test]
fn mean_over_tokens() {
    let (b, t, d) = (2, 3, 4);
    let mut rng = Rng::new(5);
    let (x, dy) = (rng.normal(b * t * d), rng.normal(b * d));
    let (mut m, [dx, g]) = arena([("dx", &[b, t, d], None), ("dy", &[b, d], Some(&dy))], &[]);
    X.mean_tokens_reverse(&mut m, dx, g, b, t, d).unwrap();
    derivative_matches("mean_tokens", &x, &m.read(dx).unwrap(), |x| {
        let (mut m, [y, x]) = arena([("y", &[b, d], None), ("x", &[b, t, d], Some(x))], &[]);
        X.mean_tokens(&mut m, y, x, b, t, d).unwrap();
        dot(&m.read(y).unwrap(), &dy)
    });
}

#[test]
fn scores() {
    let (b, q, e, scale) = (2, 3, 6, 4.0);
    let mut rng = Rng::new(6);
    let texts: Vec<f64> = rng
        .normal(q * e)
        .chunks(e)
        .flat_map(|row| {
            let norm = dot(row, row).sqrt();
            row.iter().map(move |v| v / norm).collect::<Vec<_>>()
        })
        .collect();
    let embed = rng.normal(b * e);
    let cosines = |embed: &[f64]| {
        let (mut m, [cos, embed]) = arena([("cos", &[b, q], None), ("embed", &[b, e], Some(embed))], &[]);
        X.cosine(&mut m, cos, embed, &texts, b, q, e).unwrap();
        m.read(cos).unwrap()
    };
    let cos = cosines(&embed);
    for kind in [ScoreKind::Cosine, ScoreKind::Logit, ScoreKind::Softmax] {
        let specs: [Spec<'_>; 3] =
            [("d", &[2 * b, e], None), ("embed", &[b, e], Some(&embed)), ("cos", &[b, q], Some(&cos))];
        let (mut m, [d, et, ct]) = arena(specs, &[]);
        X.score_reverse(&mut m, d, et, ct, &texts, kind, scale, 1, b, q, e, 2 * b).unwrap();
        let d = m.read(d).unwrap();
        for (i, target) in [1, 2].into_iter().enumerate() {
            derivative_matches(&format!("{kind:?}"), &embed, &d[i * b * e..][..b * e], |embed| {
                let cos = cosines(embed);
                let score = |row: &[f64]| match kind {
                    ScoreKind::Cosine => row[target],
                    ScoreKind::Logit => scale * row[target],
                    ScoreKind::Softmax => {
                        (scale * row[target]).exp() / row.iter().map(|c| (scale * c).exp()).sum::<f64>()
                    }
                };
                cos.chunks(q).map(score).sum()
            });
        }
    }
}

/// A small SAE; every kind of activation and normalisation is tried on it.
fn sae(rng: &mut Rng, activation: SaeActivation, norm: InputNorm) -> SaeWeights {
    let (d, s) = (6, 10);
    let mut f32s = |n: usize, scale: f64| -> Vec<f32> { rng.normal(n).iter().map(|v| (v * scale) as f32).collect() };
    SaeWeights {
        width: d,
        latents: s,
        encoder: f32s(s * d, 0.6),
        encoder_bias: f32s(s, 0.2),
        decoder: f32s(s * d, 0.6),
        decoder_bias: f32s(d, 0.3),
        input_bias: Some(f32s(d, 0.3)),
        activation,
        rescale_by_decoder_norm: false,
        norm,
        hook: None,
        format: "test",
        notes: Vec::new(),
        path: "test".into(),
    }
}

struct Coded {
    m: M,
    code: Code,
    x: Tensor,
    y: Tensor,
    dx: Tensor,
    dz: Tensor,
    dy: Tensor,
}

const MASK: [bool; 3] = [true, false, true];
const N: usize = 6;

fn encode(sae: &<Cpu<f64> as Backend>::Sae, x: &[f64], dy: &[f64], edits: &[Edit]) -> Coded {
    let (d, s) = (sae.width, sae.latents);
    let c = X.sae_slots(sae, edits);
    let specs: [Spec<'_>; 10] = [
        ("x", &[N, d], Some(x)),
        ("y", &[N, d], None),
        ("z", &[N, c], None),
        ("edited", &[N, c], None),
        ("slope", &[N, c], None),
        ("edit_slope", &[N, c], None),
        ("pre", &[4, s], None),
        ("dx", &[N, d], None),
        ("dz", &[N, c], None),
        ("dy", &[N, d], Some(dy)),
    ];
    let shape = [N, c + 1];
    let (mut m, [xt, y, z, edited, slope, edit_slope, pre, dx, dz, dyt]) = arena(specs, &[("index", &shape)]);
    let index = m.indices("index", &shape).unwrap();
    let code = Code { index, z, edited, slope, edit_slope, slots: c };
    X.sae_encode(&mut m, code, pre, xt, sae, edits, &MASK, N).unwrap();
    Coded { m, code, x: xt, y, dx, dz, dy: dyt }
}

fn spliced(sae: &<Cpu<f64> as Backend>::Sae, coded: &mut Coded, splice: Splice) -> Vec<f64> {
    let Coded { m, code, x, y, .. } = coded;
    X.sae_splice(m, *y, *x, *code, sae, splice, &MASK, N).unwrap();
    m.read(*y).unwrap()
}

fn kinds() -> Vec<SaeActivation> {
    vec![
        SaeActivation::Relu,
        SaeActivation::TopK { k: 4, relu: true },
        SaeActivation::TopK { k: 7, relu: false },
        SaeActivation::GroupMax { k: 5 },
        SaeActivation::Threshold { theta: 0.1 },
        SaeActivation::JumpRelu { theta: vec![0.05; 10] },
        SaeActivation::Gated { gate_bias: vec![0.1; 10], mag_bias: vec![0.2; 10], r_mag: vec![0.3; 10] },
    ]
}

fn norms() -> Vec<InputNorm> {
    vec![
        InputNorm::None,
        InputNorm::Fixed { mean: Some(vec![0.1; 6]), scale: 1.7 },
        InputNorm::LayerNorm { eps: 1e-5 },
        InputNorm::UnitNorm,
    ]
}

#[test]
fn sae_hook_and_latents_in_every_splice_and_through_mode() {
    let edits: Vec<Edit> =
        ["scale:0,1=-1.5", "add:2,9=0.7", "set:3=1.2", "zero:4"].map(|e| e.parse().unwrap()).to_vec();
    let mut cases = 0;
    for (k, activation) in kinds().into_iter().enumerate() {
        for norm in norms() {
            for rescale in [false, true] {
                let mut rng = Rng::new(70 + k as u64);
                let mut weights = sae(&mut rng, activation.clone(), norm.clone());
                weights.rescale_by_decoder_norm = rescale && !matches!(activation, SaeActivation::Gated { .. });
                let sae = X.sae(&weights).unwrap();
                let (x, dy) = (rng.normal(N * 6), rng.normal(N * 6));
                for splice in [Splice::Replace, Splice::KeepError] {
                    for through in [Through::Exact, Through::Detached, Through::Straight] {
                        let what = format!("{activation:?} {norm:?} {rescale} {splice} {through}");
                        let mut c = encode(&sae, &x, &dy, &edits);
                        let Coded { m, code, x: xt, dx, dz, dy: dyt, .. } = &mut c;
                        X.sae_splice_reverse(m, *dx, *dz, *dyt, *xt, *code, &sae, splice, through, &MASK, N, N)
                            .unwrap();
                        let (dx, dz) = (m.read(*dx).unwrap(), m.read(*dz).unwrap());
                        // A detached error and a straight-through splice are derivatives of another function.
                        derivative_matches(&what, &x, &dx, |x| {
                            let mut c = encode(&sae, x, &dy, &edits);
                            match (splice, through) {
                                (_, Through::Straight) => dot(x, &dy),
                                (Splice::KeepError, Through::Detached) => {
                                    dot(&spliced(&sae, &mut c, Splice::Replace), &dy)
                                }
                                _ => dot(&spliced(&sae, &mut c, splice), &dy),
                            }
                        });
                        let edited = c.m.read(c.code.edited).unwrap();
                        let index = c.m.read_indices(c.code.index).unwrap();
                        let slots = c.code.slots;
                        let used = |i: usize| i % slots < index[i / slots * (slots + 1)] as usize;
                        let known: Vec<f64> =
                            edited.iter().enumerate().map(|(i, &v)| if used(i) { v } else { 0.0 }).collect();
                        derivative_matches(&format!("{what} latents"), &known, &dz, |z| {
                            let mut c = encode(&sae, &x, &dy, &edits);
                            c.m.constant(c.code.edited, z).unwrap();
                            dot(&spliced(&sae, &mut c, splice), &dy)
                        });
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 7 * 4 * 2 * 6);
}

#[test]
fn sae_latent_score() {
    for activation in kinds() {
        for norm in norms() {
            let mut rng = Rng::new(8);
            let weights = sae(&mut rng, activation.clone(), norm.clone());
            let sae = X.sae(&weights).unwrap();
            let x = rng.normal(N * 6);
            for id in 0..10 {
                let score = |x: &[f64]| {
                    let mut c = encode(&sae, x, x, &[]);
                    let (mut sum, z) = (0.0, c.m.read(c.code.z).unwrap());
                    let (index, slots) = (c.m.read_indices(c.code.index).unwrap(), c.code.slots);
                    for (row, index) in index.chunks(slots + 1).enumerate() {
                        for slot in 0..index[0] as usize {
                            if index[1 + slot] == id {
                                sum += z[row * slots + slot];
                            }
                        }
                    }
                    sum
                };
                let mut c = encode(&sae, &x, &x, &[]);
                X.sae_latent_reverse(&mut c.m, c.dx, c.x, c.code, &sae, id as usize, N).unwrap();
                let dx = c.m.read(c.dx).unwrap();
                derivative_matches(&format!("{activation:?} {norm:?} latent {id}"), &x, &dx, score);
            }
        }
    }
}

#[test]
fn rows_of_a_wider_tensor_are_found() {
    let values = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.];
    let (mut m, [y, x, sum]) =
        arena([("y", &[2, 3], Some(&[0.0; 6])), ("x", &[4, 3], Some(&values)), ("sum", &[2, 3], None)], &[]);
    X.gather_rows(&mut m, y, x, &[3, 1], 3).unwrap();
    assert_eq!(m.read(y).unwrap(), [9., 10., 11., 3., 4., 5.]);
    X.add_rows(&mut m, x, 6, y, 2, 3).unwrap();
    assert_eq!(m.read(x).unwrap()[6..9], [9., 11., 13.]);
    let eye = Linear { weight: X.matrix(3, 3, vec![1., 0., 0., 0., 1., 0., 0., 0., 1.]).unwrap(), bias: None };
    let residual = Rows { tensor: x, stride: 6 };
    X.linear(&mut m, sum, y, &eye, Epilogue::Residual(residual), 2).unwrap();
    assert_eq!(m.read(sum).unwrap(), [18., 21., 24., 12., 15., 18.]);
}

/// Checks `gradient` of `f` at `x` by 4-point central differences, element by element: the largest difference is under
/// 1e-6 of the gradient's largest element.
fn derivative_matches(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let h = 1e-4;
    let mut moved = x.to_vec();
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    for i in 0..x.len() {
        let mut at = |offset: f64| {
            moved[i] = x[i] + offset;
            let value = f(&moved);
            moved[i] = x[i];
            value
        };
        let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
        let error = (numeric - gradient[i]).abs();
        assert!(
            error <= 1e-6 * largest.max(1e-3),
            "{what}: element {i}: gradient {}, finite difference {numeric}, relative error {:.1e}",
            gradient[i],
            error / largest
        );
    }
}
