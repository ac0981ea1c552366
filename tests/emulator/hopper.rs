//! Tiles and warpgroup products, one by one, on small whole numbers: every result is exact.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    emulator::{Buffer, Emulator, Settings},
    jit::Source,
    launch::{Arg, Shape, Storage, Swizzle, TileMap},
};

use crate::{CXX, checked};

const HOPPER: Source = Source { name: "tests/emulator/hopper.cu", text: include_str!("hopper.cu") };
const SHAPE: Shape = Shape { grid: [1, 1, 1], block: [128, 1, 1], shared: 65536 };

fn launch(emulator: &Emulator, kernel: &str, args: &[Arg]) {
    let module = emulator.module(&CXX, &HOPPER, &[]).unwrap();
    emulator.launch(&module, kernel, SHAPE, args).unwrap().passed().unwrap();
}

/// The swizzle of lines of so many bytes; 16 are those of none.
fn swizzle(span: usize) -> Swizzle {
    match span {
        32 => Swizzle::Bytes32,
        64 => Swizzle::Bytes64,
        128 => Swizzle::Bytes128,
        _ => Swizzle::None,
    }
}

fn matrix<T: bytemuck::Pod>(
    buffer: &Buffer<T>,
    storage: Storage,
    size: [usize; 2],
    area: [u32; 2],
    span: usize,
) -> Arg {
    Arg::Tiles(TileMap::matrix(buffer.address(), storage, size, area, swizzle(span)))
}

/// Rows of 8 x 128 bytes hold a swizzle's pattern: a chunk's place is its own, exchanged by the line of 128 bytes it is in.
fn place(span: usize, row: usize, chunk: usize) -> usize {
    let line = row * span / 128 % 8;
    row * span / 16 + if span == 16 { chunk } else { chunk ^ (line % (span / 16)) }
}

/// Tiles inside of a matrix and over each of its edges.
#[test]
fn tiles_are_swizzled_and_are_zero_outside_of_the_tensor() {
    const ROWS: usize = 21;
    for emulator in checked() {
        for span in [16, 32, 64, 128] {
            let columns = span / 4 + 4;
            let x: Vec<u32> = (1..).take(ROWS * columns).collect();
            let device_x = emulator.upload(&x).unwrap();
            let map = matrix(&device_x, Storage::F32, [ROWS, columns], [span as u32 / 4, 16], span);
            let words = span / 4 * 16;
            for (x0, y0) in [(0, 0), (4, 2), (columns as i32 - 3, 9), (-5, -3), (2, 30)] {
                let y = emulator.unwritten::<u32>(words).unwrap();
                launch(&emulator, "load_tile", &[y.arg(), map, Arg::I32(x0), Arg::I32(y0), Arg::size(words)]);
                let y = y.download().unwrap();
                for (row, column) in (0..16).flat_map(|row| (0..span / 4).map(move |column| (row, column))) {
                    let [i, j] = [y0 + row as i32, x0 + column as i32];
                    let inside = (0..ROWS as i32).contains(&i) && (0..columns as i32).contains(&j);
                    let expected = if inside { x[i as usize * columns + j as usize] } else { 0 };
                    let found = y[place(span, row, column / 4) * 4 + column % 4];
                    assert_eq!(found, expected, "span {span}, tile at {x0}, {y0}, row {row} column {column}");
                }
            }
        }
    }
}

#[test]
fn a_box_has_a_third_dimension() {
    let x: Vec<u32> = (0..5 * 6 * 8).collect();
    for emulator in checked() {
        let (device_x, y) = (emulator.upload(&x).unwrap(), emulator.unwritten::<u32>(2 * 4 * 8).unwrap());
        let map = TileMap {
            dims: [8, 6, 5],
            area: [8, 4, 2],
            rank: 3,
            ..TileMap::matrix(device_x.address(), Storage::F32, [6, 8], [8, 4], Swizzle::None)
        };
        let at = [0, 4, 3, 64].map(Arg::I32);
        launch(&emulator, "load_box", &[&[y.arg(), Arg::Tiles(map)], &at[..]].concat());
        for (i, found) in y.download().unwrap().into_iter().enumerate() {
            let (z, y, x) = (3 + i / 32, 4 + i / 8 % 4, i % 8);
            assert_eq!(found as usize, if y < 6 { (z * 6 + y) * 8 + x } else { 0 });
        }
    }
}

/// What lies outside of the tensor is not written, and after its wait a store is seen by the thread.
#[test]
fn tiles_are_stored_inside_of_the_tensor() {
    const KEPT: u32 = 7;
    for emulator in checked() {
        for span in [16, 32, 64, 128] {
            let columns = span / 4;
            let x: Vec<u32> = (100..).take(8 * columns).collect();
            let (from, to) = (emulator.upload(&x).unwrap(), emulator.upload(&vec![KEPT; 8 * columns]).unwrap());
            let out = emulator.unwritten::<u32>(1).unwrap();
            let area = [columns as u32, 8];
            let [from_map, to_map] = [&from, &to].map(|buffer| matrix(buffer, Storage::F32, [8, columns], area, span));
            let sizes = [x.len() as i32 * 4, -2, 3].map(Arg::I32);
            launch(&emulator, "move_tile", &[&[out.arg(), from_map, to_map], &sizes[..], &[to.arg()]].concat());
            assert_eq!(out.download().unwrap(), [KEPT]);
            for (i, found) in to.download().unwrap().into_iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let moved = row >= 3 && column + 2 < columns;
                let expected = if moved { x[(row - 3) * columns + column + 2] } else { KEPT };
                assert_eq!(found, expected, "span {span}, row {row} column {column}");
            }
        }
    }
}

/// Both halves: numbers from -4 to 4, of which any order of at most 64 products has an exact sum.
fn products<T: bytemuck::Pod>(emulator: &Emulator, storage: Storage, n: usize, span: usize, of: impl Fn(f32) -> T) {
    let depth = (span / 2).max(16);
    let number = |i: usize, k: usize, salt: usize| ((i * 31 + k * 17 + i * k * salt) % 9) as f32 - 4.0;
    let (a, b) = (|m, k| number(m, k, 5), |n, k| number(n, k, 7));
    // Either major: the operand's rows one after another, or its columns.
    let lay = |rows: usize, is_mn: bool, value: &dyn Fn(usize, usize) -> f32| -> Vec<T> {
        (0..rows * depth)
            .map(|i| if is_mn { of(value(i % rows, i / rows)) } else { of(value(i / depth, i % depth)) })
            .collect()
    };
    for form in ["kk", "km", "mk", "mm", "rk", "rm"] {
        let (a_is_mn, b_is_mn) = (form.starts_with('m'), form.ends_with('m'));
        let (device_a, device_b) =
            (emulator.upload(&lay(64, a_is_mn, &a)).unwrap(), emulator.upload(&lay(n, b_is_mn, &b)).unwrap());
        let map = |buffer: &Buffer<T>, rows: usize, is_mn: bool| {
            let line = span as u32 / 2;
            if is_mn {
                matrix(buffer, storage, [depth, rows], [line, depth as u32], span)
            } else {
                matrix(buffer, storage, [rows, depth], [line, rows as u32], span)
            }
        };
        let y = emulator.unwritten::<f32>(64 * n).unwrap();
        let kernel = format!("product_{}_{n}_{span}_{form}", storage.name());
        let args = [y.arg(), map(&device_a, 64, a_is_mn), map(&device_b, n, b_is_mn), device_a.arg()];
        launch(emulator, &kernel, &args);
        for (i, found) in y.download().unwrap().into_iter().enumerate() {
            let exact: f32 = (0..depth).map(|k| a(i / n, k) * b(i % n, k)).sum();
            assert_eq!(found, exact, "{kernel}: row {} column {}", i / n, i % n);
        }
    }
}

#[test]
fn products_read_every_form_of_operand() {
    for emulator in checked() {
        products(&emulator, Storage::F16, 64, 16, f16::from_f32);
        products(&emulator, Storage::F16, 64, 32, f16::from_f32);
        products(&emulator, Storage::Bf16, 64, 64, bf16::from_f32);
        products(&emulator, Storage::F16, 64, 128, f16::from_f32);
    }
}

#[test]
fn products_have_every_width() {
    let emulator = Emulator::new(&CXX, Settings::checked(1)).unwrap();
    products(&emulator, Storage::F16, 128, 128, f16::from_f32);
    products(&emulator, Storage::Bf16, 256, 128, bf16::from_f32);
}

/// What `cuTensorMapEncodeTiled` refuses is no launch.
#[test]
fn a_map_that_the_driver_would_refuse_is_an_error() {
    let emulator = Emulator::new(&CXX, Settings::checked(0)).unwrap();
    let module = emulator.module(&CXX, &HOPPER, &[]).unwrap();
    let (x, y) = (emulator.upload(&[0u32; 1024]).unwrap(), emulator.unwritten::<u32>(1024).unwrap());
    let good = TileMap::matrix(x.address(), Storage::F32, [32, 32], [32, 16], Swizzle::Bytes128);
    let bad = [
        TileMap { base: good.base + 8, ..good },
        TileMap { strides: [132, 0], ..good },
        TileMap { area: [32, 257, 1], ..good },
        TileMap { area: [64, 16, 1], ..good },
        TileMap { area: [3, 16, 1], swizzle: Swizzle::None, ..good },
        TileMap { dims: [32, 0, 1], ..good },
    ];
    let run = |map| {
        let args = [y.arg(), Arg::Tiles(map), Arg::I32(0), Arg::I32(0), Arg::I32(512)];
        emulator.launch(&module, "load_tile", SHAPE, &args)
    };
    run(good).unwrap().passed().unwrap();
    for map in bad {
        assert_eq!(run(map).unwrap_err().exit_code(), 4, "{map:?}");
    }
}
