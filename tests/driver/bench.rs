//! Rungs beside rung 1: a wrong one is found and never timed; right ones are timed by events.

use std::sync::Arc;

use vitscope::backend::gpu::{
    bench::{Bound, Cost, Data, Measured, Meter, measure},
    device::Gpu,
    emulator::Settings,
    launch::{Ladder, Launch, Storage, Target},
    rows,
};

use crate::{gpu, with_device};

const N: usize = 1000;

/// Fills; rung 2 with a value of its own.
struct Filling {
    fill: rows::Fill,
    second: f32,
}

impl Ladder for Filling {
    const OPERATION: &'static str = "rows";
    const DIRECTION: &'static str = "fill";
    const TOP: u32 = 2;

    fn launches(&self, rung: u32, target: Target) -> Option<Vec<Launch>> {
        let value = if rung == 2 { self.second } else { self.fill.value };
        rows::Fill { value, ..self.fill }.launches(rung, target)
    }
}

fn measured(gpu: &Arc<Gpu>, second: f32, forced: &[&str], meter: &Meter) -> Vec<Measured> {
    beside(gpu, second, None, forced, meter)
}

/// With `truth` in place of rung 1's result.
fn beside(gpu: &Arc<Gpu>, second: f32, truth: Option<f64>, forced: &[&str], meter: &Meter) -> Vec<Measured> {
    let mut data = Data::new(gpu.clone(), 1);
    let x = data.output(N, Bound::Sums { terms: 1, roundings: 1 }).unwrap();
    let fill = rows::Fill { x, value: 1.5, n: N, is_wide: false };
    let cost = Cost { bytes: 4 * N, flops: 0, is_product: false };
    let mut case = data.case("of a test".into(), Filling { fill, second }, cost);
    if let Some(truth) = truth {
        case = case.with_truth(vec![vec![truth; N]]);
    }
    let forced = forced.iter().map(|s| s.parse().unwrap()).collect();
    measure(gpu, &case, &forced, meter).unwrap()
}

#[test]
fn a_wrong_rung_is_never_timed() {
    let settings = Settings::fast();
    with_device(settings, |_| {
        let gpu = gpu(settings, Storage::F32);
        let meter = Meter::time(&gpu, 1, 3).unwrap();
        let right = measured(&gpu, 1.5, &[], &meter);
        assert_eq!(
            right.iter().map(|m| (m.rung, m.is_right, m.seconds.len())).collect::<Vec<_>>(),
            [(1, true, 3), (2, true, 3)]
        );
        assert!(right.iter().all(|m| m.median().unwrap() > 0.0 && m.counters.is_none()));
        for (second, error) in [(1.501, 0.001 / 1.5), (f32::NAN, f64::INFINITY)] {
            let wrong = measured(&gpu, second, &[], &meter);
            assert_eq!(
                wrong.iter().map(|m| (m.rung, m.is_right, m.seconds.len())).collect::<Vec<_>>(),
                [(1, true, 3), (2, false, 0)]
            );
            assert!(wrong[1].error == error || (wrong[1].error - error).abs() < 1e-6, "{}", wrong[1].error);
        }
        // Where the truth is known, rung 1 may be the wrong one.
        for (truth, is_right) in [(1.5, [true, false]), (1.501, [false, true]), (2.0, [false, false])] {
            let judged = beside(&gpu, 1.501, Some(f64::from(truth as f32)), &[], &meter);
            assert_eq!(judged.iter().map(|m| m.is_right).collect::<Vec<_>>(), is_right);
            assert!(judged.iter().all(|m| m.has_truth && m.seconds.is_empty() != m.is_right));
        }
        let forced = measured(&gpu, 1.5, &["rows_fill=2"], &meter);
        assert_eq!(forced.iter().map(|m| m.rung).collect::<Vec<_>>(), [2]);
    });
}

#[test]
fn accesses_are_counted_where_there_is_no_time() {
    let settings = Settings { counts: true, ..Settings::checked(0) };
    with_device(settings, |_| {
        let gpu = gpu(settings, Storage::F32);
        let measured = measured(&gpu, 1.5, &[], &Meter::Counters);
        for rung in measured {
            assert!(rung.seconds.is_empty());
            // 4000 bytes are 125 sectors.
            assert_eq!(rung.counters.unwrap().global_sectors_needed, 125, "rung {}", rung.rung);
        }
    });
}
