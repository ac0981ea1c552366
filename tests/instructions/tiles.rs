//! mbarriers, and the copy engine's tiles.

use vitscope::backend::gpu::{
    jit::Source,
    launch::{Arg, Pointer, Shape, Storage, Swizzle, TileMap},
    tiles::encode,
};

use crate::probes::{BLOCK, Probes, file, probe};

static MBARRIERS: Source = file!("mbarriers.cu");
static TILES: Source = file!("tiles.cu");
const SHAPE: Shape = Shape { shared: 65536, ..BLOCK };
/// Bytes of a tile's row; 16 are those of no swizzle.
const SPANS: [usize; 4] = [16, 32, 64, 128];

#[test]
fn mbarriers_count_arrivals_and_bytes() {
    probe(&MBARRIERS, |p| {
        phases(p)?;
        runs(p)
    });
}

#[test]
fn the_copy_engine_brings_and_stores_tiles() {
    probe(&TILES, |p| {
        loads::<u32>(p, Storage::F32)?;
        loads::<u16>(p, Storage::Bf16)?;
        loads::<u16>(p, Storage::F16)?;
        box_loads(p)?;
        stores(p)?;
        box_stores(p)?;
        reuse(p)?;
        moves(p)?;
        refusals(p);
        Ok(())
    });
}

/// The swizzle of rows of so many bytes.
pub fn swizzle(span: usize) -> Swizzle {
    match span {
        32 => Swizzle::Bytes32,
        64 => Swizzle::Bytes64,
        128 => Swizzle::Bytes128,
        _ => Swizzle::None,
    }
}

/// Where a chunk of 16 bytes lies, in chunks. 8 lines of 128 bytes hold a swizzle's pattern: a chunk's place is its own,
/// exchanged by the line that it is in.
fn place(span: usize, row: usize, chunk: usize) -> usize {
    let line = row * span / 128 % 8;
    row * span / 16 + if span == 16 { chunk } else { chunk ^ (line % (span / 16)) }
}

/// The value at a place that may be outside.
fn at<T: Copy + Default>(x: &[T], size: [usize; 3], [z, y, x0]: [i32; 3]) -> T {
    let inside = [z, y, x0].iter().zip(size).all(|(&i, n)| (0..n as i32).contains(&i));
    if inside { x[(z as usize * size[1] + y as usize) * size[2] + x0 as usize] } else { T::default() }
}

/// A tensor (z,y,x) and its boxes of `area` (z,y,x).
fn cube(base: Pointer, [z, y, x]: [usize; 3], area: [u32; 3], span: usize) -> Arg {
    let map = TileMap::matrix(base, Storage::F32, [y, x], [area[2], area[1]], swizzle(span));
    Arg::Tiles(TileMap { dims: [x as u64, y as u64, z as u64], area: [area[2], area[1], area[0]], rank: 3, ..map })
}

fn phases(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u32> = (0..7).map(|i| i * 1000 + 5).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("phases", BLOCK, 7 * 96, &[device_x.arg(), Arg::I32(7)])?;
    p.same("mbarrier phases", "", &y, &(0..7 * 96).map(|i| x[i / 96] + 32 + i as u32 % 96).collect::<Vec<_>>());
    Ok(())
}

fn runs(p: &mut Probes) -> Result<(), String> {
    const RUNS: usize = 20;
    let x: Vec<u32> = (7..).take(RUNS * (RUNS + 1) / 2 * 4).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("runs", SHAPE, x.len(), &[device_x.arg(), Arg::size(RUNS)])?;
    p.same("copy_bulk", "", &y, &x);
    Ok(())
}

/// Tiles of 16 rows inside of a matrix and over each of its edges.
fn loads<T>(p: &mut Probes, storage: Storage) -> Result<(), String>
where
    T: bytemuck::Pod + Default + std::fmt::Debug + TryFrom<usize, Error: std::fmt::Debug>,
{
    const ROWS: usize = 21;
    let run = 16 / size_of::<T>();
    for span in SPANS {
        let (width, columns) = (span / size_of::<T>(), span / size_of::<T>() + run);
        let x: Vec<T> = (1..=ROWS * columns).map(|i| T::try_from(i).unwrap()).collect();
        let device_x = p.upload(&x);
        let area = [width as u32, 16];
        let map = Arg::Tiles(TileMap::matrix(device_x.address(), storage, [ROWS, columns], area, swizzle(span)));
        for (x0, y0) in [(0, 0), (3, 2), (columns as i32 - 3, 9), (-5, -3), (2, 30), (-300, 0)] {
            let args = [map, Arg::I32(x0), Arg::I32(y0), Arg::size(span * 4)];
            let y: Vec<T> = p.run("load_tile", SHAPE, 16 * width, &args)?;
            let mut expected = vec![T::default(); 16 * width];
            for (row, column) in (0..16).flat_map(|row| (0..width).map(move |column| (row, column))) {
                let from = [0, y0 + row as i32, x0 + column as i32];
                expected[place(span, row, column / run) * run + column % run] = at(&x, [1, ROWS, columns], from);
            }
            let name = format!("tile_load {}", storage.name());
            p.same(&name, format_args!("span {span} at {x0}, {y0}"), &y, &expected);
        }
    }
    Ok(())
}

fn box_loads(p: &mut Probes) -> Result<(), String> {
    for span in SPANS {
        let width = span / 4;
        let size = [5, 6, width + 4];
        let x: Vec<u32> = (1..).take(size.iter().product()).collect();
        let device_x = p.upload(&x);
        let map = cube(device_x.address(), size, [2, 4, width as u32], span);
        for [z0, y0, x0] in [[0, 0, 0], [3, 4, 0], [4, 1, 5], [-1, -2, -3], [9, 0, 0]] {
            let args = [map, Arg::I32(x0), Arg::I32(y0), Arg::I32(z0), Arg::size(8 * width)];
            let y: Vec<u32> = p.run("load_box", SHAPE, 8 * width, &args)?;
            let mut expected = vec![0; 8 * width];
            for (row, column) in (0..8).flat_map(|row| (0..width).map(move |column| (row, column))) {
                let from = [z0 + row as i32 / 4, y0 + row as i32 % 4, x0 + column as i32];
                expected[place(span, row, column / 4) * 4 + column % 4] = at(&x, size, from);
            }
            p.same("tile_load box", format_args!("span {span} at {x0}, {y0}, {z0}"), &y, &expected);
        }
    }
    Ok(())
}

const KEPT: u32 = 7;

/// 8 rows of numbers from 100 on, as they lie in shared memory, from which `stored` takes what it says lies inside.
fn image(span: usize) -> Vec<u32> {
    let width = span / 4;
    let mut words = vec![0; 8 * width];
    for (row, column) in (0..8).flat_map(|row| (0..width).map(move |column| (row, column))) {
        words[place(span, row, column / 4) * 4 + column % 4] = (100 + row * width + column) as u32;
    }
    words
}

fn stores(p: &mut Probes) -> Result<(), String> {
    for span in SPANS {
        let width = span / 4;
        let size = [1, 11, width + 4];
        let words = p.upload(&image(span));
        for (x0, y0) in [(0, 0), (3, 2), (-2, 3), (5, -4), (0, 20)] {
            let to = p.upload(&vec![KEPT; size.iter().product()]);
            let area = [width as u32, 8];
            let map = Arg::Tiles(TileMap::matrix(to.address(), Storage::F32, [size[1], size[2]], area, swizzle(span)));
            let args = [map, Arg::I32(x0), Arg::I32(y0), words.arg(), Arg::size(8 * width), to.arg()];
            let seen: Vec<u32> = p.run("store_tile", SHAPE, 1, &args)?;
            let found: Vec<u32> = p.device.download(&to)?;
            let value = |i: usize| {
                let (row, column) = ((i / size[2]) as i32 - y0, (i % size[2]) as i32 - x0);
                let moved = (0..8).contains(&row) && (0..width as i32).contains(&column);
                if moved { 100 + row as u32 * width as u32 + column as u32 } else { KEPT }
            };
            let expected: Vec<u32> = (0..found.len()).map(value).collect();
            let (name, case) = ("tile_store", format!("span {span} at {x0}, {y0}"));
            p.same(name, &case, &found, &expected);
            p.same(name, format!("{case}, as the thread sees it"), &seen, &expected[..1]);
        }
    }
    Ok(())
}

fn box_stores(p: &mut Probes) -> Result<(), String> {
    for span in SPANS {
        let width = span / 4;
        let size = [3, 5, width + 4];
        let words = p.upload(&image(span));
        for [z0, y0, x0] in [[0, 0, 0], [1, 2, 1], [2, 3, 0], [-1, -1, -1]] {
            let to = p.upload(&vec![KEPT; size.iter().product()]);
            let map = cube(to.address(), size, [2, 4, width as u32], span);
            let args = [map, Arg::I32(x0), Arg::I32(y0), Arg::I32(z0), words.arg(), Arg::size(8 * width), to.arg()];
            let seen: Vec<u32> = p.run("store_box", SHAPE, 1, &args)?;
            let found: Vec<u32> = p.device.download(&to)?;
            let value = |i: usize| {
                let [z, y, x] = [i / size[2] / size[1], i / size[2] % size[1], i % size[2]].map(|i| i as i32);
                let [z, y, x] = [z - z0, y - y0, x - x0];
                let moved = (0..2).contains(&z) && (0..4).contains(&y) && (0..width as i32).contains(&x);
                if moved { 100 + ((z * 4 + y) * width as i32 + x) as u32 } else { KEPT }
            };
            let expected: Vec<u32> = (0..found.len()).map(value).collect();
            let (name, case) = ("tile_store box", format!("span {span} at {x0}, {y0}, {z0}"));
            p.same(name, &case, &found, &expected);
            p.same(name, format!("{case}, as the thread sees it"), &seen, &expected[..1]);
        }
    }
    Ok(())
}

fn reuse(p: &mut Probes) -> Result<(), String> {
    const TILES: usize = 8;
    let x: Vec<u32> = (1..=(TILES * 8 * 32) as u32).collect();
    let (from, to) = (p.upload(&x), p.device.unwritten::<u32>(x.len()));
    let map = Arg::Tiles(TileMap::matrix(to.address(), Storage::F32, [TILES * 8, 32], [32, 8], Swizzle::None));
    p.launch("reuse", SHAPE, &[map, from.arg(), Arg::size(8 * 32), Arg::size(TILES)])?;
    let found: Vec<u32> = p.device.download(&to)?;
    p.same("tile_store_wait_read", "", &found, &x);
    Ok(())
}

fn moves(p: &mut Probes) -> Result<(), String> {
    for span in SPANS {
        let columns = span / 4;
        let x: Vec<u32> = (100..).take(8 * columns).collect();
        let (from, to) = (p.upload(&x), p.upload(&vec![KEPT; 8 * columns]));
        let area = [columns as u32, 8];
        let [from_map, to_map] = [&from, &to].map(|buffer| {
            Arg::Tiles(TileMap::matrix(buffer.address(), Storage::F32, [8, columns], area, swizzle(span)))
        });
        p.launch("move_tile", SHAPE, &[from_map, to_map, Arg::size(x.len() * 4), Arg::I32(-2), Arg::I32(3)])?;
        let found: Vec<u32> = p.device.download(&to)?;
        let value = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            if row >= 3 && column + 2 < columns { x[(row - 3) * columns + column + 2] } else { KEPT }
        };
        p.same("tile moved", format_args!("span {span}"), &found, &(0..found.len()).map(value).collect::<Vec<_>>());
    }
    Ok(())
}

/// Maps that the driver takes, and that it does not.
fn refusals(p: &mut Probes) {
    let x = p.upload(&[0u32; 1024]);
    let good = TileMap::matrix(x.address(), Storage::F32, [32, 32], [32, 16], Swizzle::Bytes128);
    let maps = [
        good,
        TileMap { base: good.base + 8, ..good },
        TileMap { strides: [132, 0], ..good },
        TileMap { area: [32, 257, 1], ..good },
        TileMap { area: [64, 16, 1], ..good },
        TileMap { area: [3, 16, 1], swizzle: Swizzle::None, ..good },
        TileMap { dims: [32, 0, 1], ..good },
    ];
    let taken = maps.map(|map| u32::from(encode(map).is_ok()));
    p.same("tile maps taken", "", &taken, &[1, 0, 0, 0, 0, 0, 0]);
}
