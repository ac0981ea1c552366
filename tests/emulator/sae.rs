//! Small SAEs for the tests of their kernels, on the emulator and on the CPU backend in f64, which is the truth.

use vitscope::{
    backend::{
        Arena, Backend, Code, Memory, Plan, Tensor,
        cpu::{Cpu, CpuMemory},
        gpu::{
            emulator::{Buffer, Emulator},
            sae::{self, EditBlock, SaeArrays, mask_bytes},
        },
    },
    model::Edit,
    weights::{InputNorm, SaeActivation, SaeWeights},
};

use crate::numbers::{Storage, random};

pub const X: Cpu<f64> = Cpu::new();

/// An SAE, its input, and what is asked of it.
pub struct Case<T> {
    pub weights: SaeWeights,
    /// (N,D).
    pub x: Vec<T>,
    pub edits: Vec<Edit>,
    pub mask: Vec<bool>,
    pub n: usize,
}

/// Whole numbers from -`most` to `most`.
fn whole(n: usize, most: f64, seed: u64) -> Vec<f32> {
    random::<f32>(n, most + 0.49, 0.0, seed).into_iter().map(f32::round).collect()
}

/// Values that the storage type holds.
fn stored<T: Storage>(n: usize, scale: f64, seed: u64) -> Vec<f32> {
    random::<T>(n, scale, 0.0, seed).into_iter().map(|v| v.wide() as f32).collect()
}

pub fn edits(list: &[&str]) -> Vec<Edit> {
    list.iter().map(|edit| edit.parse().unwrap()).collect()
}

/// An SAE without edits that sees all rows. When `is_whole`, all numbers are small whole ones and the decoder's norms
/// are powers of 2, so that f32 makes no error as long as the norm makes none.
pub fn case<T: Storage>(
    (n, d, s): (usize, usize, usize),
    activation: SaeActivation,
    norm: InputNorm,
    rescale: bool,
    is_whole: bool,
) -> Case<T> {
    let values = |n: usize, scale: f64, seed: u64| match is_whole {
        true => whole(n, scale, seed),
        false => stored::<T>(n, scale, seed),
    };
    let decoder = match is_whole {
        true => (0..s * d).map(|i| if i % d == i / d % d { [1.0, -2.0, 4.0][i / d % 3] } else { 0.0 }).collect(),
        false => values(s * d, 0.6, 12),
    };
    let weights = SaeWeights {
        width: d,
        latents: s,
        encoder: values(s * d, 1.0, 10),
        encoder_bias: values(s, 1.0, 11),
        decoder,
        decoder_bias: values(d, 1.0, 13),
        input_bias: Some(values(d, 1.0, 14)),
        rescale_by_decoder_norm: rescale && !matches!(activation, SaeActivation::Gated { .. }),
        activation,
        norm,
        hook: None,
        format: "test",
        notes: Vec::new(),
        path: "test".into(),
    };
    weights.validate().unwrap();
    let x = values(n * d, 3.0, 15).iter().map(|&v| T::of(v.into())).collect();
    Case { weights, x, edits: vec![], mask: vec![true], n }
}

/// Every kind of activation over `s` latents.
pub fn activations(s: usize) -> Vec<SaeActivation> {
    let some = |least: f32, step: f32| -> Vec<f32> { (0..s).map(|i| least + step * (i % 4) as f32).collect() };
    vec![
        SaeActivation::Relu,
        SaeActivation::TopK { k: 4, relu: true },
        SaeActivation::TopK { k: s, relu: false },
        SaeActivation::GroupMax { k: s / 2 },
        SaeActivation::Threshold { theta: 1.0 },
        SaeActivation::JumpRelu { theta: some(-1.0, 1.0) },
        SaeActivation::Gated { gate_bias: some(-1.0, 1.0), mag_bias: some(0.0, 0.5), r_mag: some(0.0, 0.0) },
    ]
}

/// Every kind of input norm over width `d`.
pub fn norms(d: usize) -> Vec<InputNorm> {
    vec![
        InputNorm::None,
        InputNorm::Fixed { mean: Some((0..d).map(|i| (i % 3) as f32).collect()), scale: 0.5 },
        InputNorm::LayerNorm { eps: 1e-5 },
        InputNorm::UnitNorm,
    ]
}

/// A case on the CPU in f64, after the encoder.
pub struct Truth {
    pub m: CpuMemory<f64>,
    pub sae: <Cpu<f64> as Backend>::Sae,
    pub code: Code,
    pub x: Tensor,
}

/// The code's values as the CPU has them: the latents by row, and z, edited, slope, edit_slope by slot.
pub struct Values {
    pub index: Vec<Vec<u32>>,
    pub slots: [Vec<f64>; 4],
}

impl Truth {
    /// `more` are further tensors for the test, with their values.
    pub fn new<T: Storage>(case: &Case<T>, more: &[(&str, usize)]) -> Self {
        let (n, s) = (case.n, case.weights.latents);
        let sae = X.sae(&case.weights).unwrap();
        let c = X.sae_slots(&sae, &case.edits);
        let (rows, code_shape, index_shape, pre_shape) = ([case.x.len()], [n, c], [n, c + 1], [n, s]);
        let mut specs: Vec<(&str, &[usize])> = vec![("x", &rows), ("pre", &pre_shape)];
        specs.extend(["z", "edited", "slope", "edit_slope"].map(|name| (name, &code_shape[..])));
        specs.extend(more.iter().map(|(name, len)| (*name, std::slice::from_ref(len))));
        let mut m = CpuMemory::new(Plan::lasting(&specs, &[("index", &index_shape)]), false);
        let x = m.tensor("x", &rows).unwrap();
        m.constant(x, &case.x.iter().map(|x| x.wide()).collect::<Vec<_>>()).unwrap();
        let pre = m.tensor("pre", &pre_shape).unwrap();
        let mut tensor = |name| m.tensor(name, &code_shape).unwrap();
        let (z, edited, slope, edit_slope) = (tensor("z"), tensor("edited"), tensor("slope"), tensor("edit_slope"));
        let code = Code { index: m.indices("index", &index_shape).unwrap(), z, edited, slope, edit_slope, slots: c };
        X.sae_encode(&mut m, code, pre, x, &sae, &case.edits, &case.mask, n).unwrap();
        Truth { m, sae, code, x }
    }

    pub fn values(&mut self) -> Values {
        let index = self.m.read_indices(self.code.index).unwrap();
        let Code { z, edited, slope, edit_slope, slots, .. } = self.code;
        Values {
            index: index.chunks(slots + 1).map(|row| row[1..][..row[0] as usize].to_vec()).collect(),
            slots: [z, edited, slope, edit_slope].map(|tensor| self.m.read(tensor).unwrap()),
        }
    }
}

/// A case on the emulator. The buffers live as long as the pointers are used.
pub struct OnDevice<'a, T> {
    pub sae: sae::Sae,
    pub edits: sae::Edits,
    pub mask: sae::Mask,
    pub x: Buffer<'a, T>,
    _matrices: [Buffer<'a, T>; 2],
    _vectors: Vec<Buffer<'a, f32>>,
    _words: Option<Buffer<'a, u32>>,
    _bytes: Buffer<'a, u8>,
}

impl<'a, T: Storage> OnDevice<'a, T> {
    pub fn new(emulator: &'a Emulator, case: &Case<T>) -> Self {
        let arrays = SaeArrays::new(&case.weights, T::STORAGE);
        let matrices = [arrays.encoder, arrays.decoder]
            .map(|values| emulator.upload(&values.iter().map(|&v| T::of(v.into())).collect::<Vec<_>>()).unwrap());
        let mut vectors = vec![];
        let mut vector = |values: &[f32]| {
            if values.is_empty() {
                return 0;
            }
            let buffer = emulator.upload(values).unwrap();
            let address = buffer.address();
            vectors.push(buffer);
            address
        };
        let sae = sae::Sae {
            rule: arrays.rule,
            encoder: matrices[0].address(),
            decoder: matrices[1].address(),
            bias: vector(arrays.bias),
            decoder_bias: vector(arrays.decoder_bias),
            input_bias: vector(arrays.input_bias),
            mean: vector(arrays.mean),
            row_norms: vector(&arrays.row_norms),
            parameters: vector(&arrays.parameters),
            folded_bias: vector(&arrays.folded_bias),
            row_sums: vector(&arrays.row_sums),
        };
        let block = EditBlock::new(&case.edits);
        let words = (!block.words.is_empty()).then(|| emulator.upload(&block.words).unwrap());
        let block_address = words.as_ref().map_or(0, |words| words.address());
        let bytes = emulator.upload(&mask_bytes(&case.mask)).unwrap();
        OnDevice {
            sae,
            edits: sae::Edits { block: block_address, edits: block.edits, forced: block.forced },
            mask: sae::Mask { bytes: bytes.address(), tokens: case.mask.len() },
            x: emulator.upload(&case.x).unwrap(),
            _matrices: matrices,
            _vectors: vectors,
            _words: words,
            _bytes: bytes,
        }
    }
}
