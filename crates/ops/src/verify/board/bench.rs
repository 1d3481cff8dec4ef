//! What checks on a board share: memory, numbers that its type holds, and comparisons.

use crate::Store;
use crate::board::{Board, BoardError, DevicePtr, DeviceTensor, Elem, Ptr};
use crate::fp8::Format;
use crate::linear::board::ColumnSums;
use crate::verify::numbers::normal;
use crate::verify::{Check, Subject};

/// A board with memory to check on.
pub(super) struct Bench<'a> {
    pub(super) board: &'a dyn Board,
    /// Type at hand.
    pub(super) elem: Elem,
    arena: DevicePtr,
    len: usize,
    used: usize,
}

/// Space between buffers, so that a pack behind the last element belongs to nobody.
const GAP: usize = 256;

impl<'a> Bench<'a> {
    pub(super) fn new(board: &'a dyn Board, len: usize) -> Result<Self, BoardError> {
        Ok(Self { board, elem: Elem::F32, arena: board.allocate(len)?, len, used: 0 })
    }

    /// Forgets all buffers.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// A buffer of `bytes`, of not-a-numbers: what is not written shows.
    pub(super) fn take(&mut self, bytes: usize) -> Result<DevicePtr, BoardError> {
        let ptr = DevicePtr::new(self.arena.address() + self.used as u64);
        self.used += bytes.next_multiple_of(256) + GAP;
        assert!(self.used <= self.len, "checks want more than {} bytes", self.len);
        self.board.write(ptr, &vec![0xff; bytes])?;
        Ok(ptr)
    }

    /// Room for `n` elements of the type at hand.
    pub(super) fn room(&mut self, n: usize) -> Result<DeviceTensor, BoardError> {
        Ok(DeviceTensor::new(self.take(n * self.elem.bytes())?, self.elem))
    }

    /// Room for `n` values of a type of its own.
    pub(super) fn room_of<T>(&mut self, n: usize) -> Result<Ptr<T>, BoardError> {
        Ok(Ptr::new(self.take(n * size_of::<T>())?))
    }

    /// Standard normal numbers that the type at hand holds, and where they lie.
    pub(super) fn normal(&mut self, idx: u32, n: usize) -> Result<(Vec<f32>, DeviceTensor), BoardError> {
        let values: Vec<f32> = normal(idx, n).into_iter().map(|x| round(x, self.elem)).collect();
        let ptr = self.put(&values)?;
        Ok((values, ptr))
    }

    /// Numbers that the type at hand holds.
    pub(super) fn put(&mut self, values: &[f32]) -> Result<DeviceTensor, BoardError> {
        let tensor = self.room(values.len())?;
        let bytes: Vec<u8> = match self.elem {
            Elem::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            Elem::Bf16 => values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_ne_bytes()).collect(),
            Elem::E4m3 | Elem::E5m2 => unreachable!("operations compute in f32 or bfloat16"),
        };
        self.board.write(tensor.bytes(), &bytes)?;
        Ok(tensor)
    }

    /// Words.
    pub(super) fn put_u32(&mut self, values: &[u32]) -> Result<Ptr<u32>, BoardError> {
        let ptr = self.room_of::<u32>(values.len())?;
        self.board.write(ptr.bytes(), &values.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>())?;
        Ok(ptr)
    }

    /// `f32` whatever the type at hand.
    pub(super) fn put_f32(&mut self, values: &[f32]) -> Result<Ptr<f32>, BoardError> {
        Ok(Ptr::new(self.put_u32(&values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())?.bytes()))
    }

    /// Column sums with room for `len` floats of partial sums.
    pub(super) fn sums(&mut self, len: usize, store: Store) -> Result<ColumnSums, BoardError> {
        Ok(ColumnSums::new(self.room_of(len)?, len, store))
    }

    /// The first `n` elements of a tensor.
    pub(super) fn get(&self, tensor: DeviceTensor, n: usize) -> Result<Vec<f32>, BoardError> {
        match tensor.elem() {
            Elem::F32 => self.get_f32(Ptr::new(tensor.bytes()), n),
            Elem::Bf16 => {
                let mut bytes = vec![0; n * 2];
                self.board.read(tensor.bytes(), &mut bytes)?;
                let half = |b: &[u8]| u32::from(u16::from_ne_bytes([b[0], b[1]]));
                Ok(bytes.chunks_exact(2).map(|b| f32::from_bits(half(b) << 16)).collect())
            }
            Elem::E4m3 | Elem::E5m2 => {
                let format = if tensor.elem() == Elem::E4m3 { Format::E4m3 } else { Format::E5m2 };
                let mut codes = vec![0; n];
                self.board.read(tensor.bytes(), &mut codes)?;
                Ok(codes.into_iter().map(|code| format.decode(code)).collect())
            }
        }
    }

    pub(super) fn get_u32(&self, ptr: Ptr<u32>, n: usize) -> Result<Vec<u32>, BoardError> {
        let mut bytes = vec![0; n * 4];
        self.board.read(ptr.bytes(), &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    pub(super) fn get_f32(&self, ptr: Ptr<f32>, n: usize) -> Result<Vec<f32>, BoardError> {
        Ok(self.get_u32(Ptr::new(ptr.bytes()), n)?.into_iter().map(f32::from_bits).collect())
    }

    pub(super) fn subject(&self, op: &'static str, shape: impl Into<String>) -> Subject {
        Subject { op, elem: self.elem, shape: shape.into() }
    }

    /// Holds a tensor against the CPU's. Each was rounded `roundings` times to the type at hand, in
    /// sums of `depth` terms in `f32`.
    pub(super) fn check(
        &self,
        subject: &Subject,
        output: &'static str,
        tensor: DeviceTensor,
        expected: &[f32],
        roundings: f64,
        depth: usize,
    ) -> Result<Check, BoardError> {
        let got = self.get(tensor, expected.len())?;
        Ok(compare(subject, output, &got, expected, roundings * unit(self.elem), depth))
    }

    /// The same of `f32` that were summed from numbers of the type at hand, exactly.
    pub(super) fn check_f32(
        &self,
        subject: &Subject,
        output: &'static str,
        ptr: Ptr<f32>,
        expected: &[f32],
        depth: usize,
    ) -> Result<Check, BoardError> {
        let got = self.get_f32(ptr, expected.len())?;
        Ok(compare(subject, output, &got, expected, 0.0, depth))
    }
}

/// Half the distance of neighbours at 1.
fn unit(elem: Elem) -> f64 {
    match elem {
        Elem::F32 => 2f64.powi(-24),
        Elem::Bf16 => 2f64.powi(-8),
        Elem::E4m3 => 2f64.powi(-4),
        Elem::E5m2 => 2f64.powi(-3),
    }
}

/// The tolerance: roundings of `relative` of the largest element; sums of `depth` terms in `f32` in another order,
/// each addition off by 2⁻²⁴ of a partial sum that grows as the square root; and 8 roundings of functions in `f32`.
fn compare(
    subject: &Subject,
    output: &'static str,
    got: &[f32],
    expected: &[f32],
    relative: f64,
    depth: usize,
) -> Check {
    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
    let largest = expected.iter().fold(1f64, |max, x| max.max(x.abs()));
    let sums = 2f64.powi(-24) * (8.0 + 2.0 * (depth as f64).sqrt());
    subject.compare(output, got, &expected, largest * (relative + sums))
}

/// The nearest number that the type holds.
pub(super) fn round(x: f32, elem: Elem) -> f32 {
    match elem {
        Elem::F32 => x,
        Elem::Bf16 => {
            let bits = x.to_bits();
            f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        }
        Elem::E4m3 => Format::E4m3.decode(Format::E4m3.encode(x)),
        Elem::E5m2 => Format::E5m2.decode(Format::E5m2.encode(x)),
    }
}
