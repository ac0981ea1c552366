//! The arena's lanes: runs that overlap, and passes that the driver remembers as graphs.

use vitscope::{
    Error, Result,
    backend::{
        Arena, Backend, Device, Fetch, FetchIndices, Fetched, Input, Memory, Plan, Started,
        gpu::{backend::GpuBackend, emulator::Settings, launch::Storage, memory::GpuMemory},
    },
};

use crate::{gpu, with_device};

const N: usize = 300;

fn backend(settings: Settings) -> GpuBackend {
    GpuBackend::new(gpu(settings, Storage::Bf16))
}

/// `y` (2,N) = the input's rows exchanged; what is fetched is overwritten afterwards.
fn exchange<X: Backend>(x: &X, m: &mut X::Memory) -> Result<(Fetch, Fetch)> {
    let input = m.tensor("x", &[2, N])?;
    m.input(input)?;
    let weights = m.wide("weights", &[2])?;
    m.constant(weights, &[0.5, 1.0 / 3.0])?;
    let y = m.tensor("y", &[2, N])?;
    x.gather_rows(m, y, input, &[1, 0], N)?;
    let fetches = (m.fetch(y)?, m.fetch(weights)?);
    x.fill(m, y, -1.0)?;
    x.fill(m, weights, -1.0)?;
    Ok(fetches)
}

fn arena(backend: &GpuBackend) -> (GpuMemory, (Fetch, Fetch)) {
    let (plan, fetches) = Plan::record(backend, false, |x, m| exchange(x, m)).unwrap();
    (backend.arena(plan, false).unwrap(), fetches)
}

/// Small integers, which bf16 has exactly, and other ones for each run.
fn values(run: usize) -> Vec<f64> {
    (0..2 * N).map(|i| ((i * 7 + run * 31) % 200) as f64).collect()
}

fn start(backend: &GpuBackend, memory: &mut GpuMemory, run: usize) -> Started {
    let started = memory.start(Input::Values(&values(run))).unwrap();
    if started == Started::Issue {
        exchange(backend, memory).unwrap();
        memory.issued().unwrap();
    }
    started
}

fn check(mut fetched: Fetched, (y, weights): (Fetch, Fetch), run: usize) {
    let x = values(run);
    assert_eq!(fetched.take(y), [&x[N..], &x[..N]].concat(), "run {run}");
    assert_eq!(fetched.take(weights), [0.5, f64::from(1f32 / 3.0)], "run {run}");
}

#[test]
fn runs_overlap_and_are_remembered() {
    for settings in [Settings::fast(), Settings::checked(1)] {
        with_device(settings, |_| {
            let backend = backend(settings);
            let (mut memory, fetches) = arena(&backend);
            assert_eq!(memory.lanes(), 2);
            let mut started = Vec::new();
            for run in 0..7 {
                if run >= 2 {
                    check(memory.collect().unwrap(), fetches, run - 2);
                }
                started.push(start(&backend, &mut memory, run));
            }
            assert!(memory.start(Input::Values(&values(7))).is_err(), "both lanes are out");
            check(memory.collect().unwrap(), fetches, 5);
            check(memory.collect().unwrap(), fetches, 6);
            assert!(memory.collect().is_err(), "nothing is out");
            // The first run is issued, each lane then captures once.
            use Started::{Issue, Replayed};
            assert_eq!(started, [Issue, Issue, Issue, Replayed, Replayed, Replayed, Replayed]);
        });
    }
}

#[test]
fn a_pass_that_fails_while_it_is_captured_leaves_the_device_whole() {
    let settings = Settings::fast();
    with_device(settings, |_| {
        let backend = backend(settings);
        let (mut memory, fetches) = arena(&backend);
        start(&backend, &mut memory, 0);
        check(memory.collect().unwrap(), fetches, 0);
        assert_eq!(memory.start(Input::Values(&values(1))).unwrap(), Started::Issue);
        let x = memory.tensor("x", &[2, N]).unwrap();
        memory.input(x).unwrap();
        let other = memory.tensor("another", &[1]);
        assert!(matches!(other, Err(Error::Plan { .. })));
        drop(memory);
        let (mut memory, fetches) = arena(&backend);
        start(&backend, &mut memory, 2);
        check(memory.collect().unwrap(), fetches, 2);
    });
}

#[test]
fn an_input_is_what_was_planned() {
    let settings = Settings::fast();
    with_device(settings, |_| {
        let backend = backend(settings);
        let (mut memory, _) = arena(&backend);
        for wrong in [&[0.0; 2 * N - 1][..], &[0.0; 2 * N + 1], &[]] {
            assert!(matches!(memory.start(Input::Values(wrong)), Err(Error::Usage(_))));
        }
        assert!(matches!(memory.start(Input::Bytes(&[0; 2 * N])), Err(Error::Plan { .. })));
    });
}

fn mirror<M: Memory>(m: &mut M, bytes: usize) -> Result<FetchIndices> {
    let words = m.indices("picture", &[bytes.div_ceil(4)])?;
    m.input_bytes(words)?;
    m.fetch_indices(words)
}

#[test]
fn bytes_arrive_as_they_are() {
    let settings = Settings::checked(1);
    with_device(settings, |_| {
        let backend = backend(settings);
        let picture: Vec<u8> = (0..27 * 4).map(|i| (i * 5) as u8).collect();
        let (plan, fetch) = Plan::record(&backend, false, |_, m| mirror(m, picture.len())).unwrap();
        let mut memory = backend.arena(plan, false).unwrap();
        for shift in 0..4 {
            let picture: Vec<u8> = picture.iter().map(|byte| byte.wrapping_add(shift)).collect();
            if memory.start(Input::Bytes(&picture)).unwrap() == Started::Issue {
                mirror(&mut memory, picture.len()).unwrap();
                memory.issued().unwrap();
            }
            let words = memory.collect().unwrap().take_indices(fetch);
            assert_eq!(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), picture);
        }
    });
}
