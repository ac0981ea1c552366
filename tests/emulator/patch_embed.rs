//! Patches from pixels and from bytes, back to pixels, and positions: every rung.

use half::{bf16, f16};
use vitscope::{
    backend::{
        PatchGrid,
        gpu::{
            emulator::Emulator,
            launch::{self, Ladder, Target},
            patch_embed::{Patches, PatchesU8, Positions, Reverse, row_length},
        },
    },
    image::Preprocess,
};

use crate::{
    checked,
    numbers::{Storage, assert_close, bytes, random},
    run,
};

/// The pixel (channel, y, x) that value `i` of a patch is; nothing in the CLS row and after the patch's end.
fn place(grid: PatchGrid, token: usize, i: usize) -> Option<(usize, usize, usize)> {
    let (p, patch) = (grid.patch, token.checked_sub(1)?);
    let at = (i / (p * p), patch / grid.cols * p + i / p % p, patch % grid.cols * p + i % p);
    (i < 3 * p * p).then_some(at)
}

/// The value of each entry of `patches` (B,T,stride), from that of a pixel (image, channel, y, x).
fn patches_of<T: Storage>(
    batch: usize,
    grid: PatchGrid,
    stride: usize,
    pixel: impl Fn(usize, usize, usize, usize) -> f32,
) -> Vec<T> {
    let rows = (0..batch).flat_map(|b| (0..grid.tokens()).map(move |t| (b, t)));
    let at = rows.flat_map(|(b, t)| (0..stride).map(move |i| (b, place(grid, t, i))));
    at.map(|(b, at)| T::of(at.map_or(0.0, |(c, y, x)| pixel(b, c, y, x).into()))).collect()
}

fn check<T: Storage>(emulator: &Emulator, rung: u32, batch: usize, grid: PatchGrid, stride: usize) {
    let PatchGrid { height, width, .. } = grid;
    let (n, tokens) = (batch * height * width * 3, grid.tokens());

    let pixels: Vec<f32> = random(n, 2.0, 0.0, 1);
    let dev_pixels = emulator.upload(&pixels).unwrap();
    let patches = emulator.unwritten::<T>(batch * tokens * stride).unwrap();
    let pass = Patches { patches: patches.address(), pixels: dev_pixels.address(), stride, grid, batch };
    if run(emulator, &pass, rung, T::STORAGE).is_some() {
        let exact = patches_of::<T>(batch, grid, stride, |b, c, y, x| pixels[((b * 3 + c) * height + y) * width + x]);
        assert!(patches.download().unwrap() == exact, "patches {rung} {} {grid:?}", T::NAME);
    }

    let (picture, values) = (bytes(n, 2), Preprocess::clip(224).values());
    let (dev_picture, table) = (emulator.upload(&picture).unwrap(), emulator.upload(values.as_flattened()).unwrap());
    let patches = emulator.unwritten::<T>(batch * tokens * stride).unwrap();
    let pass = PatchesU8 {
        patches: patches.address(),
        picture: dev_picture.address(),
        table: table.address(),
        stride,
        grid,
        batch,
    };
    if run(emulator, &pass, rung, T::STORAGE).is_some() {
        let byte = |b: usize, c: usize, y: usize, x: usize| {
            values[c][usize::from(picture[((b * height + y) * width + x) * 3 + c])]
        };
        assert!(
            patches.download().unwrap() == patches_of::<T>(batch, grid, stride, byte),
            "bytes {rung} {} {grid:?}",
            T::NAME
        );
    }

    let dpatches: Vec<T> = random(batch * tokens * stride, 1.0, 0.0, 3);
    let dev_dpatches = emulator.upload(&dpatches).unwrap();
    let dpixels = emulator.unwritten::<f32>(n).unwrap();
    let pass = Reverse { dpixels: dpixels.address(), dpatches: dev_dpatches.address(), stride, grid, g: batch };
    if run(emulator, &pass, rung, T::STORAGE).is_some() {
        let mut exact = vec![0.0; n];
        for (row, values) in dpatches.chunks(stride).enumerate() {
            for (i, value) in values.iter().enumerate() {
                if let Some((c, y, x)) = place(grid, row % tokens, i) {
                    exact[((row / tokens * 3 + c) * height + y) * width + x] = value.wide() as f32;
                }
            }
        }
        assert!(dpixels.download().unwrap() == exact, "reverse {rung} {} {grid:?}", T::NAME);
    }
}

fn check_positions<T: Storage>(emulator: &Emulator, rung: u32, batch: usize, tokens: usize, width: usize) {
    let n = batch * tokens * width;
    let (x, cls): (Vec<T>, Vec<f32>) = (random(n, 1.0, 0.0, 1), random(width, 1.0, 0.0, 2));
    let positions: Vec<f32> = random(tokens * width, 1.0, 0.0, 3);
    let dev_x = emulator.upload(&x).unwrap();
    let [dev_cls, dev_positions] = [&cls, &positions].map(|values| emulator.upload(values).unwrap());
    let pass = Positions {
        x: dev_x.address(),
        cls: dev_cls.address(),
        positions: dev_positions.address(),
        batch,
        tokens,
        width,
    };
    if run(emulator, &pass, rung, T::STORAGE).is_none() {
        return;
    }
    let exact: Vec<f64> = (0..n)
        .map(|i| {
            let at = i % (tokens * width);
            (if at < width { cls[at].into() } else { x[i].wide() }) + f64::from(positions[at])
        })
        .collect();
    // One sum in f32 of terms up to 1.
    assert_close("positions", &dev_x.download().unwrap(), &exact, |_| 2.0 * f32::UNIT);
}

fn check_all(emulator: &Emulator, rung: u32, batch: usize, grid: PatchGrid, stride: usize) {
    check::<f32>(emulator, rung, batch, grid, stride);
    check::<f16>(emulator, rung, batch, grid, stride);
    check::<bf16>(emulator, rung, batch, grid, stride);
}

fn check_all_positions(emulator: &Emulator, rung: u32, batch: usize, tokens: usize, width: usize) {
    check_positions::<f32>(emulator, rung, batch, tokens, width);
    check_positions::<f16>(emulator, rung, batch, tokens, width);
    check_positions::<bf16>(emulator, rung, batch, tokens, width);
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=Patches::TOP {
        check_all(emulator, rung, 1, PatchGrid::of(8, 12, 4), 48);
        check_all_positions(emulator, rung, 3, 5, 16);
    }
}

/// Partial patches at the edges, patches of odd sides, one patch, padded rows; the lengths of real sequences.
#[test]
fn every_rung_moves_every_pixel_to_its_place() {
    for emulator in checked() {
        for rung in 1..=Patches::TOP.max(Reverse::TOP) {
            for (batch, height, width, patch) in [(2, 23, 15, 7), (1, 4, 4, 4), (3, 32, 48, 16), (1, 30, 44, 14)] {
                let grid = PatchGrid::of(height, width, patch);
                for stride in
                    [3 * patch * patch, row_length(3 * patch * patch, 8), row_length(3 * patch * patch, 8) + 8]
                {
                    check_all(&emulator, rung, batch, grid, stride);
                }
            }
            for side in [4, 7, 14, 16, 24] {
                check_all(&emulator, rung, 1, PatchGrid::of(2 * side, 2 * side, 2), 16);
            }
            for (batch, tokens, width) in
                [(2, 5, 17), (3, 50, 64), (1, 1, 8), (3, 17, 24), (1, 197, 8), (1, 257, 16), (1, 577, 8)]
            {
                check_all_positions(&emulator, rung, batch, tokens, width);
            }
        }
    }
}

/// 14 x 14 patches have 588 values, which is no whole number of 16 bytes in the 16-bit types: rows are padded for rung 2.
#[test]
fn rung_2_serves_padded_rows() {
    let target = Target { storage: launch::Storage::Bf16, architecture: 80 };
    let grid = PatchGrid::of(224, 224, 14);
    let served = |stride| Patches { patches: 0, pixels: 0, stride, grid, batch: 1 }.launches(2, target).is_some();
    assert_eq!((served(588), row_length(588, 8), served(592)), (false, 592, true));
}
