//! Pixels to tokens: each patch is a row of pixels (channel, y, x), multiplied with the patch embedding's weights.

use rayon::prelude::*;

use super::Real;
use crate::backend::PatchGrid;

/// `patches` (B,T,3 p p) from `pixels` (B,3,R,R).
pub fn to_patches<T: Real>(patches: &mut [T], pixels: &[T], grid: PatchGrid) {
    patch_lines(patches, grid, |values, image, channel, y, left| {
        let start = ((image * 3 + channel) * grid.height + y) * grid.width + left;
        values.copy_from_slice(&pixels[start..][..values.len()]);
    });
}

/// `patches` (B,T,3 p p) from the bytes (B,R,R,3) of pictures; `table` (3,256) has the normalised value of each byte.
pub fn bytes_to_patches<T: Real>(patches: &mut [T], bytes: &[u8], table: &[T], grid: PatchGrid) {
    patch_lines(patches, grid, |values, image, channel, y, left| {
        let start = ((image * grid.height + y) * grid.width + left) * 3 + channel;
        let (line, table) = (bytes[start..].iter().step_by(3), &table[channel * 256..][..256]);
        values.iter_mut().zip(line).for_each(|(value, &byte)| *value = table[usize::from(byte)]);
    });
}

/// Fills the lines of patches: `line(values, image, channel, y, left)` is given the values of one line of one patch. The row
/// of the CLS token is zero, so that one product makes all tokens.
fn patch_lines<T: Real>(
    patches: &mut [T],
    grid: PatchGrid,
    line: impl Fn(&mut [T], usize, usize, usize, usize) + Sync,
) {
    let (p, t) = (grid.patch, grid.tokens());
    patches.par_chunks_mut(3 * p * p).enumerate().for_each(|(row, patch)| {
        let (image, token) = (row / t, row % t);
        if token == 0 {
            return patch.fill(T::ZERO);
        }
        let (top, left) = ((token - 1) / grid.cols * p, (token - 1) % grid.cols * p);
        for (i, values) in patch.chunks_mut(p).enumerate() {
            line(values, image, i / p, top + i % p, left);
        }
    });
}

/// `pixels` (G,3,R,R) from `patches` (G,T,3 p p): the inverse of [`to_patches`], and its reverse.
pub fn from_patches<T: Real>(pixels: &mut [T], patches: &[T], grid: PatchGrid) {
    let (p, t) = (grid.patch, grid.tokens());
    let (height, width) = (grid.height, grid.width);
    pixels.par_chunks_mut(width).enumerate().for_each(|(line, row)| {
        let (image, channel, y) = (line / (3 * height), line / height % 3, line % height);
        let seen = if y < grid.rows * p { grid.cols * p } else { 0 };
        let (row, unseen) = row.split_at_mut(seen);
        unseen.fill(T::ZERO);
        for (col, values) in row.chunks_mut(p).enumerate() {
            let patch = (image * t + 1 + y / p * grid.cols + col) * 3 * p * p;
            let start = patch + (channel * p + y % p) * p;
            values.copy_from_slice(&patches[start..start + p]);
        }
    });
}

/// Token 0 of `x` (B,T,D) becomes `cls` (D), and `positions` (T,D) are added to all.
pub fn add_positions<T: Real>(x: &mut [T], cls: &[T], positions: &[T], tokens: usize) {
    let d = cls.len();
    x.par_chunks_mut(tokens * d).for_each(|x| {
        x[..d].copy_from_slice(cls);
        x.iter_mut().zip(positions).for_each(|(x, &p)| *x += p);
    });
}
