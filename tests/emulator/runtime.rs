//! The emulator itself: what it refuses, what it counts, and that its fast mode agrees with its checking mode.

use vitscope::backend::gpu::{
    emulator::{Counters, Emulator, Settings},
    jit::Source,
    launch::{Arg, Shape, Storage, Swizzle, TileMap},
};

use crate::CXX;

const ACCESS: Source = Source { name: "tests/emulator/access.cu", text: include_str!("access.cu") };
const SHAPE: Shape = Shape { grid: [1, 1, 1], block: [32, 1, 1], shared: 0 };

fn count(kernel: &str) -> Counters {
    let emulator = Emulator::new(&CXX, Settings { counts: true, ..Settings::checked(0) }).unwrap();
    let module = emulator.module(&CXX, &ACCESS, &[]).unwrap();
    let (x, y) = (emulator.upload(&[1.0f32; 1024]).unwrap(), emulator.unwritten::<f32>(1024).unwrap());
    emulator.launch(&module, kernel, SHAPE, &[y.arg(), x.arg()]).unwrap().passed().unwrap()
}

#[test]
fn sectors_of_warp_accesses_are_counted() {
    let counters = count("coalesced");
    assert_eq!((counters.global_accesses, counters.global_sectors, counters.global_sectors_needed), (2, 8, 8));
    let counters = count("strided");
    assert_eq!((counters.global_accesses, counters.global_sectors, counters.global_sectors_needed), (2, 36, 8));
    let counters = count("wide");
    assert_eq!((counters.global_accesses, counters.global_sectors, counters.global_sectors_needed), (2, 32, 32));
}

#[test]
fn bank_conflicts_are_counted() {
    let counters = count("rows");
    assert_eq!((counters.shared_accesses, counters.shared_passes, counters.shared_passes_needed), (2, 2, 2));
    let counters = count("columns");
    assert_eq!((counters.shared_accesses, counters.shared_passes, counters.shared_passes_needed), (2, 33, 2));
}

#[test]
fn what_the_hardware_refuses_is_refused() {
    let emulator = Emulator::new(&CXX, Settings::checked(0)).unwrap();
    let module = emulator.module(&CXX, &ACCESS, &[]).unwrap();
    let x = emulator.upload(&[1.0f32; 1024]).unwrap();
    let args = [x.arg(), x.arg()];
    let shapes = [
        Shape { block: [1025, 1, 1], ..SHAPE },
        Shape { block: [0, 1, 1], ..SHAPE },
        Shape { grid: [1, 65536, 1], ..SHAPE },
        Shape { shared: 227 * 1024 + 1, ..SHAPE },
    ];
    for shape in shapes {
        let launched = emulator.launch(&module, "coalesced", shape, &args).unwrap();
        assert_eq!(launched.findings[0].kind, "launch", "{shape:?}");
    }
    let missing = emulator.launch(&module, "missing", SHAPE, &args).unwrap_err();
    assert_eq!(missing.exit_code(), 4);
    assert!(missing.to_string().contains("`missing`"));
    let short = emulator.launch(&module, "coalesced", SHAPE, &[x.arg(), Arg::I32(1)]).unwrap_err();
    assert!(short.to_string().contains("[8, 8]"), "{short}");
    // Which maps are refused is probed through the driver.
    let map = TileMap::matrix(x.address() + 8, Storage::F32, [32, 32], [32, 16], Swizzle::Bytes128);
    let map = emulator.launch(&module, "coalesced", SHAPE, &[x.arg(), Arg::Tiles(map)]).unwrap_err();
    assert_eq!(map.exit_code(), 4);
    assert!(map.to_string().contains("no tensor map"), "{map}");
}

#[test]
fn memory_is_bounded_and_unwritten_until_it_is_written() {
    let settings = Settings { memory_bytes: 1000, ..Settings::fast() };
    let emulator = Emulator::new(&CXX, settings).unwrap();
    let all = emulator.unwritten::<f32>(250).unwrap();
    assert!(emulator.unwritten::<u8>(1).is_err());
    assert!(all.download().unwrap().iter().all(|value| value.is_nan()));
    drop(all);
    assert_eq!(emulator.upload(&[1.0f32, 2.0]).unwrap().download().unwrap(), [1.0, 2.0]);
}

/// At full speed single accesses are not seen, but a guard band is.
#[test]
fn the_fast_mode_sees_a_damaged_guard_band() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let source = Source { name: "tests/emulator/bugs/out_of_bounds.cu", text: include_str!("bugs/out_of_bounds.cu") };
    let module = emulator.module(&CXX, &source, &[]).unwrap();
    let (x, y) = (emulator.upload(&[0i32; 128]).unwrap(), emulator.unwritten::<i32>(128).unwrap());
    let shape = Shape { block: [128, 1, 1], ..SHAPE };
    let launched = emulator.launch(&module, "with_bug", shape, &[y.arg(), x.arg()]).unwrap();
    assert_eq!(launched.findings[0].kind, "bounds");
    assert!(
        launched.findings[0].message.contains("0 bytes past the end of an allocation of 512"),
        "{}",
        launched.findings[0]
    );
}

/// Blocks on several threads of the host give the same as blocks in turn.
#[test]
fn a_launch_may_use_several_threads_of_the_host() {
    let run = |threads| {
        let emulator = Emulator::new(&CXX, Settings { threads, ..Settings::fast() }).unwrap();
        let module = emulator.module(&CXX, &ACCESS, &[]).unwrap();
        let (x, y) = (emulator.upload(&[1.0f32; 1024]).unwrap(), emulator.upload(&[0.0f32; 1024]).unwrap());
        let shape = Shape { grid: [200, 1, 1], ..SHAPE };
        emulator.launch(&module, "atomics", shape, &[y.arg(), x.arg()]).unwrap().passed().unwrap();
        y.download().unwrap()
    };
    let sums = run(2);
    assert_eq!(sums[..2], [6400.0, 0.0]);
    assert_eq!(run(1), sums);
}
