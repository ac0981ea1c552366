//! Arrays of 32-bit floats in NumPy's `.npy` format, version 1.0 (`numpy.lib.format`): magic, version, length of the
//! header as u16, the header as a Python literal padded with spaces to a multiple of 64 bytes, the values in C order.

use std::path::Path;

use crate::files::write_file;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
const ALIGNMENT: usize = 64;

/// Writes an array of `shape`, C order, little endian.
///
/// # Errors
/// [`Error::Usage`] when the shape does not fit the values; [`Error::Io`].
pub fn write_npy(path: &Path, shape: &[usize], values: &[f32]) -> Result<()> {
    if shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(values.len()) {
        return Err(Error::usage(format!("an array of shape {shape:?} cannot hold {} values", values.len())));
    }
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}", python_tuple(shape));
    let unpadded = MAGIC.len() + 2 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| Error::usage(format!("{shape:?}: too many dimensions")))?;

    let mut bytes = Vec::with_capacity(MAGIC.len() + 2 + header.len() + 4 * values.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    write_file(path, &bytes)
}

/// Reads what [`write_npy`] wrote: shape and values.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for any other array.
pub fn read_npy(path: &Path) -> Result<(Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let other = || Error::file(path, "not a little-endian float32 array in C order, .npy version 1.0");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(other)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(other)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (header, data) = rest.split_at_checked(length).ok_or_else(other)?;
    let header = std::str::from_utf8(header).map_err(|_| other())?;
    let shape = header
        .trim_end()
        .strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (")
        .and_then(|h| h.strip_suffix("), }"))
        .and_then(|h| h.split(',').map(str::trim).filter(|d| !d.is_empty()).map(|d| d.parse().ok()).collect())
        .ok_or_else(other)?;
    let shape: Vec<usize> = shape;
    let values = shape.iter().try_fold(4usize, |n, &d| n.checked_mul(d));
    if values != Some(data.len()) {
        return Err(other());
    }
    Ok((shape, data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
}

/// `(3,)`, `(2, 3)`, `()`.
fn python_tuple(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_numpy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        write_npy(&path, &[2, 1], &[1.0, -0.5]).unwrap();
        // numpy.save(path, numpy.array([[1], [-0.5]], dtype="<f4")), NumPy 2.
        let mut expected =
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }".to_vec();
        expected.resize(127, b' ');
        expected.push(b'\n');
        expected.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf]);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn arrays_read_back_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        for shape in [vec![], vec![6], vec![2, 3], vec![1, 2, 3], vec![0, 4]] {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| i as f32 * 0.1).collect();
            write_npy(&path, &shape, &values).unwrap();
            assert_eq!(read_npy(&path).unwrap(), (shape, values));
        }
        assert!(write_npy(&path, &[2], &[1.0]).is_err());
        write_npy(&path, &[2], &[1.0, 2.0]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 9, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(matches!(read_npy(&path), Err(Error::File { .. })), "{cut}");
        }
    }
}
