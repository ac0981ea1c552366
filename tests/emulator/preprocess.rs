//! Bytes to normalised pixels: the processor's values, bit for bit.

use vitscope::{
    backend::gpu::{
        emulator::Emulator,
        launch::{Ladder, Storage},
        preprocess::Forward,
    },
    image::{Preprocess, ResizeRule, Rgb8},
};

use crate::{checked, numbers::bytes, run};

fn check(emulator: &Emulator, rung: u32, batch: usize, height: usize, width: usize) {
    let picture = bytes(batch * height * width * 3, 1);
    let how = Preprocess { resize: ResizeRule::Off, crop_size: None, ..Preprocess::clip(224) };
    let exact: Vec<f32> = picture
        .chunks(height * width * 3)
        .flat_map(|data| how.apply(&Rgb8 { width, height, data: data.to_vec() }).unwrap().pixels())
        .collect();
    let table = emulator.upload(how.values().as_flattened()).unwrap();
    let dev_picture = emulator.upload(&picture).unwrap();
    let pixels = emulator.unwritten::<f32>(picture.len()).unwrap();
    let pass = Forward {
        pixels: pixels.address(),
        picture: dev_picture.address(),
        table: table.address(),
        batch,
        height,
        width,
    };
    if run(emulator, &pass, rung, Storage::Bf16).is_some() {
        assert!(pixels.download().unwrap() == exact, "rung {rung} {batch} x {height} x {width}");
    }
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=Forward::TOP {
        check(emulator, rung, 1, 3, 4);
    }
}

#[test]
fn every_rung_gives_the_processors_pixels() {
    for emulator in checked() {
        for rung in 1..=Forward::TOP {
            for (batch, height, width) in [(2, 5, 7), (3, 16, 12), (1, 1, 1), (1, 33, 64)] {
                check(&emulator, rung, batch, height, width);
            }
        }
    }
}
