//! Large buffers on large pages. Packed weights and the arena are hundreds of megabytes that every pass walks through
//! once: on pages of 4 kB the processor would look up addresses as often as it fetches data.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// A fixed number of values, zero at first. On Linux the system is asked for large pages.
#[derive(Debug)]
pub struct Pages<T> {
    map: MmapMut,
    bytes: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `len` zeros. Like any allocation it ends the process where there is no memory.
    pub fn zeroed(len: usize) -> Self {
        let layout = Layout::array::<T>(len).unwrap_or(Layout::new::<T>());
        let bytes = len * size_of::<T>();
        // A map of no bytes is an error.
        let Ok(map) = MmapMut::map_anon(bytes.max(1)) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // Advice: a system that has none serves small pages, slower and as right.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Pages { map, bytes, values: PhantomData }
    }
}

/// Bytes of a large page.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.bytes])
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.bytes])
    }
}
