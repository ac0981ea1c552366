//! The tape is a plan: a pass is first run with a [`Recorder`], which computes nothing and notes when each tensor
//! is first and last used. From that [`Plan`] cuts one arena, so the memory of a pass is known before it starts
//! and nothing is allocated while it runs. The real pass asks for the same tensors in the same order.

use super::{
    AttentionShape, Backend, Code, Epilogue, EpilogueReverse, Fetch, FetchIndices, Indices, Linear, Memory, Norm,
    PatchGrid, Picture, Relevance, Rows, ScoreKind, Tensor,
};
use crate::{
    Error, Result,
    model::{Edit, Splice, Through},
    weights::SaeWeights,
};

/// One tensor of a plan.
#[derive(Debug, Clone)]
pub struct TensorSpec {
    /// Its name in the data's way.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The operation that uses it first.
    pub first: usize,
    /// The operation that uses it last.
    pub last: usize,
    /// Whether its values have 32 bits at least, whatever the storage type.
    pub wide: bool,
    /// Arena units of one element: 1, or more for a wide tensor beside a narrow storage type.
    pub units: usize,
    /// Where it lies in the arena, in units.
    pub offset: usize,
}

impl TensorSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its place in the arena, in units.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.end()
    }

    /// The unit after its last.
    fn end(&self) -> usize {
        self.offset + self.len() * self.units
    }
}

/// Every tensor of a pass with its lifetime and its place.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Tensors of reals, in order of creation.
    pub tensors: Vec<TensorSpec>,
    /// Tensors of indices, in order of creation.
    pub indices: Vec<TensorSpec>,
    /// Units of the arena of reals: values of the storage type.
    pub len: usize,
    /// Elements of the arena of indices.
    pub index_len: usize,
    /// What the host gives each run.
    pub input: Option<PlannedInput>,
    /// What the host gets of each run, in order.
    pub fetched: Vec<Tensor>,
    /// The same of indices.
    pub fetched_indices: Vec<Indices>,
}

/// Where a run's input goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedInput {
    /// Values.
    Values(Tensor),
    /// Bytes.
    Bytes(Indices),
}

impl Plan {
    /// Records `pass` and cuts the arena for it; what the pass answers comes beside it.
    ///
    /// # Errors
    /// Those of `pass`.
    pub fn record<B: Backend, R>(
        backend: &B,
        watched: bool,
        pass: impl FnOnce(&Recorder<'_, B>, &mut Recording) -> Result<R>,
    ) -> Result<(Plan, R)> {
        let mut recording = Recording { watched, wide_units: backend.wide_units(), ..Recording::default() };
        let answer = pass(&Recorder { backend }, &mut recording)?;
        let mut plan = recording.plan;
        plan.cut();
        Ok((plan, answer))
    }

    fn cut(&mut self) {
        self.len = place(&mut self.tensors);
        self.index_len = place(&mut self.indices);
    }

    /// A plan of tensors that all live from the first operation to the last, for tests of single operations.
    pub fn lasting(tensors: &[(&str, &[usize])], indices: &[(&str, &[usize])]) -> Plan {
        let specs = |list: &[(&str, &[usize])]| -> Vec<TensorSpec> {
            let spec =
                |&(name, shape): &(&str, &[usize])| TensorSpec { first: 0, ..Recording::spec(name, shape, false, 1) };
            list.iter().map(spec).collect()
        };
        let mut plan = Plan { tensors: specs(tensors), indices: specs(indices), ..Plan::default() };
        plan.cut();
        plan
    }

    /// Bytes of the arena with reals of `real` bytes.
    pub fn bytes(&self, real: usize) -> usize {
        self.len * real + self.index_len * size_of::<u32>()
    }
}

/// Units by which tensors are aligned in the arena: a cache line of f32.
const ALIGN: usize = 16;

/// Gives each tensor a place such that two tensors share elements only when their lifetimes do not meet:
/// largest first, each into the lowest gap that holds it. Returns the arena's length.
fn place(specs: &mut [TensorSpec]) -> usize {
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(specs[i].len() * specs[i].units), specs[i].first, i));
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut end = 0;
    for i in order {
        let need = (specs[i].len() * specs[i].units).next_multiple_of(ALIGN);
        let mut offset = 0;
        for &j in &placed {
            let apart = specs[j].last < specs[i].first || specs[i].last < specs[j].first;
            if apart {
                continue;
            }
            if offset + need <= specs[j].offset {
                break;
            }
            offset = offset.max(specs[j].end().next_multiple_of(ALIGN));
        }
        specs[i].offset = offset;
        end = end.max(offset + need);
        let at = placed.partition_point(|&j| specs[j].offset <= offset);
        placed.insert(at, i);
    }
    end
}

/// What a [`Recorder`] writes down.
#[derive(Debug, Default)]
pub struct Recording {
    plan: Plan,
    clock: usize,
    watched: bool,
    wide_units: usize,
}

impl Recording {
    fn spec(name: &str, shape: &[usize], wide: bool, units: usize) -> TensorSpec {
        let (first, last) = (usize::MAX, 0);
        TensorSpec { name: name.to_owned(), shape: shape.to_vec(), first, last, wide, units, offset: 0 }
    }

    fn push(&mut self, name: &str, shape: &[usize], wide: bool) -> Result<Tensor> {
        self.plan.tensors.push(Self::spec(name, shape, wide, if wide { self.wide_units } else { 1 }));
        Ok(Tensor::new(self.plan.tensors.len() - 1))
    }

    /// One operation that uses these tensors.
    fn touch(&mut self, tensors: &[Tensor], indices: &[Indices]) -> Result<()> {
        self.clock += 1;
        let clock = self.clock;
        let live = |spec: &mut TensorSpec| {
            spec.first = spec.first.min(clock);
            spec.last = clock;
        };
        tensors.iter().for_each(|t| live(&mut self.plan.tensors[t.id()]));
        indices.iter().for_each(|t| live(&mut self.plan.indices[t.id()]));
        Ok(())
    }
}

impl Memory for Recording {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.push(name, shape, false)
    }

    fn wide(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.push(name, shape, true)
    }

    fn indices(&mut self, name: &str, shape: &[usize]) -> Result<Indices> {
        self.plan.indices.push(Self::spec(name, shape, false, 1));
        Ok(Indices::new(self.plan.indices.len() - 1))
    }

    fn input(&mut self, tensor: Tensor) -> Result<()> {
        self.plan.input = Some(PlannedInput::Values(tensor));
        self.touch(&[tensor], &[])
    }

    fn input_bytes(&mut self, bytes: Indices) -> Result<()> {
        self.plan.input = Some(PlannedInput::Bytes(bytes));
        self.touch(&[], &[bytes])
    }

    fn constant(&mut self, tensor: Tensor, _: &[f64]) -> Result<()> {
        self.touch(&[tensor], &[])
    }

    fn fetch(&mut self, tensor: Tensor) -> Result<Fetch> {
        self.touch(&[tensor], &[])?;
        self.plan.fetched.push(tensor);
        Ok(Fetch::new(self.plan.fetched.len() - 1))
    }

    fn fetch_indices(&mut self, tensor: Indices) -> Result<FetchIndices> {
        self.touch(&[], &[tensor])?;
        self.plan.fetched_indices.push(tensor);
        Ok(FetchIndices::new(self.plan.fetched_indices.len() - 1))
    }

    fn observe(&mut self, _: &str, tensor: Tensor) -> Result<()> {
        if self.watched { self.touch(&[tensor], &[]) } else { Ok(()) }
    }

    fn watched(&self) -> bool {
        self.watched
    }
}

/// Walks a [`Plan`] while the real pass asks for its tensors.
#[derive(Debug)]
pub struct Cursor {
    plan: Plan,
    next: usize,
    next_index: usize,
    fetches: usize,
    index_fetches: usize,
}

impl Cursor {
    /// At the start of `plan`.
    pub fn new(plan: Plan) -> Self {
        Cursor { plan, next: 0, next_index: 0, fetches: 0, index_fetches: 0 }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Back to the start, for another run of the same pass.
    pub fn rewind(&mut self) {
        (self.next, self.next_index, self.fetches, self.index_fetches) = (0, 0, 0, 0);
    }

    /// The next tensor, wide or not, which must be the one that was planned.
    ///
    /// # Errors
    /// When the pass differs from the recorded one.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        check(self.plan.tensors.get(self.next), name, shape)?;
        self.next += 1;
        Ok(Tensor::new(self.next - 1))
    }

    /// The next tensor of indices, which must be the one that was planned.
    ///
    /// # Errors
    /// When the pass differs from the recorded one.
    pub fn indices(&mut self, name: &str, shape: &[usize]) -> Result<Indices> {
        check(self.plan.indices.get(self.next_index), name, shape)?;
        self.next_index += 1;
        Ok(Indices::new(self.next_index - 1))
    }

    /// Checks that the host's input goes where it was planned to go.
    ///
    /// # Errors
    /// When the pass differs from the recorded one.
    pub fn input(&self, input: PlannedInput) -> Result<()> {
        if self.plan.input == Some(input) { Ok(()) } else { Err(Error::Plan { tensor: "input".into(), planned: None }) }
    }

    /// The next tensor that is handed over, which must be the one that was planned.
    ///
    /// # Errors
    /// When the pass differs from the recorded one.
    pub fn fetch(&mut self, tensor: Tensor) -> Result<Fetch> {
        let name = |tensor: Tensor| self.plan.tensors[tensor.id()].name.clone();
        let planned = self.plan.fetched.get(self.fetches).copied();
        if planned != Some(tensor) {
            return Err(Error::Plan { tensor: name(tensor), planned: planned.map(name) });
        }
        self.fetches += 1;
        Ok(Fetch::new(self.fetches - 1))
    }

    /// As [`Cursor::fetch`].
    ///
    /// # Errors
    /// As [`Cursor::fetch`].
    pub fn fetch_indices(&mut self, tensor: Indices) -> Result<FetchIndices> {
        let name = |tensor: Indices| self.plan.indices[tensor.id()].name.clone();
        let planned = self.plan.fetched_indices.get(self.index_fetches).copied();
        if planned != Some(tensor) {
            return Err(Error::Plan { tensor: name(tensor), planned: planned.map(name) });
        }
        self.index_fetches += 1;
        Ok(FetchIndices::new(self.index_fetches - 1))
    }
}

fn check(spec: Option<&TensorSpec>, name: &str, shape: &[usize]) -> Result<()> {
    match spec {
        Some(spec) if spec.name == name && spec.shape == shape => Ok(()),
        _ => Err(Error::Plan { tensor: name.to_owned(), planned: spec.map(|s| s.name.clone()) }),
    }
}

/// A backend that computes nothing and notes which tensors each operation uses.
#[derive(Debug)]
pub struct Recorder<'a, B> {
    backend: &'a B,
}

/// Implements operations by noting their tensors: `name(arguments) => [tensors], [indices]`.
macro_rules! note {
    ($($(#[$attr:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) => [$($tensor:expr),*] $(, [$index:expr])?;)+) => {
        $(
            $(#[$attr])*
            #[allow(unused_variables)] // sizes and parameters leave no trace in a recording
            fn $name(&self, m: &mut Recording, $($arg: $type),*) -> Result<()> {
                m.touch(&[$($tensor),*], &[$($index)?])
            }
        )+
    };
}

impl<B: Backend> Backend for Recorder<'_, B> {
    type Memory = Recording;
    type Matrix = B::Matrix;
    type Vector = B::Vector;
    type Sae = B::Sae;

    fn wide_units(&self) -> usize {
        self.backend.wide_units()
    }

    fn matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self::Matrix> {
        self.backend.matrix(rows, cols, values)
    }

    fn patch_matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self::Matrix> {
        self.backend.patch_matrix(rows, cols, values)
    }

    fn patch_row(&self, values: usize) -> usize {
        self.backend.patch_row(values)
    }

    fn sae_rows(&self) -> usize {
        self.backend.sae_rows()
    }

    fn vector(&self, values: impl ExactSizeIterator<Item = f64>) -> Result<Self::Vector> {
        self.backend.vector(values)
    }

    fn sae(&self, weights: &SaeWeights) -> Result<Self::Sae> {
        self.backend.sae(weights)
    }

    fn sae_slots(&self, sae: &Self::Sae, edits: &[Edit]) -> usize {
        self.backend.sae_slots(sae, edits)
    }

    fn linear(
        &self,
        m: &mut Recording,
        y: Tensor,
        x: Tensor,
        _: &Linear<B::Matrix, B::Vector>,
        epilogue: Epilogue,
        _: usize,
    ) -> Result<()> {
        match epilogue {
            Epilogue::None | Epilogue::Activation(_, None) => m.touch(&[y, x], &[]),
            Epilogue::Residual(r) => m.touch(&[y, x, r.tensor], &[]),
            Epilogue::Activation(_, Some(u)) => m.touch(&[y, x, u], &[]),
        }
    }

    fn linear_reverse(
        &self,
        m: &mut Recording,
        dx: Tensor,
        dy: Tensor,
        _: &Linear<B::Matrix, B::Vector>,
        epilogue: EpilogueReverse,
        _: usize,
    ) -> Result<()> {
        match epilogue {
            EpilogueReverse::None => m.touch(&[dx, dy], &[]),
            EpilogueReverse::Activation(_, u, _) => m.touch(&[dx, dy, u], &[]),
        }
    }

    fn attention_reverse(
        &self,
        m: &mut Recording,
        dqkv: Option<Tensor>,
        relevance: Option<Relevance>,
        d_o: Tensor,
        qkv: Tensor,
        lse: Tensor,
        _: AttentionShape,
        _: usize,
    ) -> Result<()> {
        let mut used = vec![d_o, qkv, lse];
        used.extend(dqkv);
        used.extend(relevance.iter().flat_map(|r| [r.out, r.input]));
        m.touch(&used, &[])
    }

    fn patch_embed(
        &self,
        m: &mut Recording,
        x: Tensor,
        patches: Tensor,
        picture: Picture<'_, B::Vector>,
        _: &B::Matrix,
        _: &B::Vector,
        _: &B::Vector,
        _: usize,
        _: PatchGrid,
    ) -> Result<()> {
        match picture {
            Picture::Pixels(pixels) => m.touch(&[x, patches, pixels], &[]),
            Picture::Bytes { bytes, .. } => m.touch(&[x, patches], &[bytes]),
        }
    }

    note! {
        fn patch_embed_reverse(dpixels: Tensor, dpatches: Tensor, dx: Tensor, weight: &B::Matrix, batch: usize,
            grid: PatchGrid) => [dpixels, dpatches, dx];
        fn layer_norm(y: Tensor, stats: Tensor, x: Rows, norm: &Norm<B::Vector>, n: usize) => [y, stats, x.tensor];
        fn layer_norm_reverse(dx: Tensor, dy: Tensor, x: Rows, stats: Tensor, norm: &Norm<B::Vector>, n: usize,
            g: usize, accumulate: bool) => [dx, dy, x.tensor, stats];
        fn attention(o: Tensor, lse: Tensor, qkv: Tensor, shape: AttentionShape) => [o, lse, qkv];
        fn attention_row(relevance: Relevance, qkv: Tensor, lse: Tensor, shape: AttentionShape)
            => [relevance.out, relevance.input, qkv, lse];
        fn attention_positive_gradient(map: Tensor, d_o: Tensor, qkv: Tensor, shape: AttentionShape, g: usize)
            => [map, d_o, qkv];
        fn grad_eclip(map: Tensor, d_o: Tensor, qkv: Tensor, shape: AttentionShape, g: usize) => [map, d_o, qkv];
        fn grad_cam(map: Tensor, dx: Tensor, x: Tensor, batch: usize, tokens: usize, width: usize, g: usize)
            => [map, dx, x];
        fn mean_tokens(y: Tensor, x: Tensor, batch: usize, tokens: usize, width: usize) => [y, x];
        fn mean_tokens_reverse(dx: Tensor, dy: Tensor, g: usize, tokens: usize, width: usize) => [dx, dy];
        fn cosine(cos: Tensor, embed: Tensor, texts: &B::Vector, batch: usize, queries: usize, width: usize)
            => [cos, embed];
        fn score_reverse(dembed: Tensor, embed: Tensor, cos: Tensor, texts: &B::Vector, kind: ScoreKind,
            logit_scale: f64, first: usize, batch: usize, queries: usize, width: usize, g: usize)
            => [dembed, embed, cos];
        fn fill(x: Tensor, value: f64) => [x];
        fn gather_rows(y: Tensor, x: Tensor, rows: &[usize], width: usize) => [y, x];
        fn add_rows(y: Tensor, stride: usize, x: Tensor, n: usize, width: usize) => [y, x];
        fn sae_encode(code: Code, pre: Tensor, x: Tensor, sae: &B::Sae, edits: &[Edit], mask: &[bool], n: usize)
            => [code.z, code.edited, code.slope, code.edit_slope, pre, x], [code.index];
        fn sae_splice(y: Tensor, x: Tensor, code: Code, sae: &B::Sae, splice: Splice, mask: &[bool], n: usize)
            => [y, x, code.z, code.edited], [code.index];
        fn sae_splice_reverse(dx: Tensor, dz: Tensor, dy: Tensor, x: Tensor, code: Code, sae: &B::Sae,
            splice: Splice, through: Through, mask: &[bool], n: usize, g: usize)
            => [dx, dz, dy, x, code.z, code.edited, code.slope, code.edit_slope], [code.index];
        fn sae_latent(score: Tensor, code: Code, id: usize, batch: usize, tokens: usize)
            => [score, code.z], [code.index];
        fn sae_latent_reverse(dx: Tensor, x: Tensor, code: Code, sae: &B::Sae, id: usize, n: usize)
            => [dx, x, code.slope], [code.index];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(len: usize, first: usize, last: usize) -> TensorSpec {
        TensorSpec { name: String::new(), shape: vec![len], first, last, wide: false, units: 1, offset: 0 }
    }

    #[test]
    fn tensors_share_elements_only_when_they_never_live_together() {
        let mut specs: Vec<_> = (0..40).map(|i| spec(16 * (1 + i * 7 % 5), i, i + i % 4)).collect();
        let end = place(&mut specs);
        for (i, a) in specs.iter().enumerate() {
            assert!(a.offset + a.len() <= end);
            for b in &specs[..i] {
                let together = a.first <= b.last && b.first <= a.last;
                let overlap = a.offset < b.offset + b.len() && b.offset < a.offset + a.len();
                assert!(!(together && overlap), "{a:?} and {b:?}");
            }
        }
        let most = (0..50).map(|t| specs.iter().filter(|s| s.first <= t && t <= s.last).map(TensorSpec::len).sum());
        assert!(end <= 2 * most.max().unwrap_or(0), "the arena is far larger than what lives at once");
    }

    #[test]
    fn a_wide_tensor_takes_more_units() {
        let mut recording = Recording { wide_units: 2, ..Recording::default() };
        for step in 0..2 {
            let narrow = recording.tensor("x", &[3, 16]).unwrap();
            let wide = recording.wide("stats", &[3, 16]).unwrap();
            recording.touch(&[narrow, wide], &[]).unwrap();
            assert_eq!(recording.plan.tensors.len(), 2 * (step + 1));
        }
        // Both of a step live together, and those of the second step take their places.
        assert_eq!(place(&mut recording.plan.tensors), 3 * 16 * (1 + 2));
        assert_eq!(recording.plan.tensors[1].range().len(), 3 * 16 * 2);
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let mut specs: Vec<_> = (0..10).map(|i| spec(160, i, i + 1)).collect();
        assert_eq!(place(&mut specs), 320);
    }
}
