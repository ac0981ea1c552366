//! What GPUs can do at most, by their makers' data sheets.

use crate::backend::gpu::launch::Storage;

/// The limits of a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// What its name contains; of several the first counts.
    name: &'static str,
    /// TFLOP/s of the tensor cores on dense 16-bit products, summed in f32.
    pub tensor_tflops: f64,
    /// TFLOP/s of multiply-adds in f32.
    pub f32_tflops: f64,
    /// GB/s of the memory.
    pub memory_gbs: f64,
}

const fn card(name: &'static str, tensor_tflops: f64, f32_tflops: f64, memory_gbs: f64) -> Card {
    Card { name, tensor_tflops, f32_tflops, memory_gbs }
}

/// NVIDIA's data sheets.
const CARDS: [Card; 11] = [
    card("H200 NVL", 835.5, 60.0, 4800.0),
    card("H200", 989.4, 66.9, 4800.0),
    card("H100 PCIe", 756.0, 51.0, 2000.0),
    card("H100 80GB HBM3", 989.4, 66.9, 3350.0),
    card("A100-SXM4-80GB", 312.0, 19.5, 2039.0),
    card("A100 80GB PCIe", 312.0, 19.5, 1935.0),
    card("A100", 312.0, 19.5, 1555.0),
    card("L40S", 362.0, 91.6, 864.0),
    card("L4", 121.0, 30.3, 300.0),
    card("RTX 4090", 165.2, 82.6, 1008.0),
    card("RTX 3090", 71.0, 35.6, 936.0),
];

impl Card {
    /// The limits of the GPU of this name, where they are known.
    pub fn of(name: &str) -> Option<Card> {
        let words: Vec<&str> = name.split(' ').collect();
        CARDS.into_iter().find(|card| {
            let wanted: Vec<&str> = card.name.split(' ').collect();
            // A100 stands for all that begin so; an L40 is no L4.
            words
                .windows(wanted.len())
                .any(|part| part == wanted || (wanted == ["A100"] && part[0].starts_with("A100-")))
        })
    }

    /// TFLOP/s at most: of tensor cores for products of 16-bit values.
    pub fn tflops(&self, storage: Storage, is_product: bool) -> f64 {
        if is_product && storage != Storage::F32 { self.tensor_tflops } else { self.f32_tflops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_drivers_names() {
        let memory = |name: &str| Card::of(name).map(|card| card.memory_gbs);
        assert_eq!(memory("NVIDIA H200"), Some(4800.0));
        assert_eq!(Card::of("NVIDIA H200 NVL").unwrap().tensor_tflops, 835.5);
        assert_eq!(memory("NVIDIA H100 80GB HBM3"), Some(3350.0));
        assert_eq!(memory("NVIDIA A100-SXM4-80GB"), Some(2039.0));
        assert_eq!(memory("NVIDIA A100-PCIE-40GB"), Some(1555.0));
        assert_eq!(memory("NVIDIA GeForce RTX 4090"), Some(1008.0));
        assert_eq!(memory("NVIDIA L4"), Some(300.0));
        assert_eq!(memory("NVIDIA L40"), None);
        assert_eq!(memory("vitscope emulated GPU"), None);
    }
}
