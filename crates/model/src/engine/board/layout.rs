//! Where each parameter lies in a flat buffer on a board.

use std::ops::Range;

use crate::parameter::Parameter;

/// Every parameter starts at a multiple of this: whole 16-byte accesses in either type, and what matrix products
/// like best.
const ALIGNMENT: usize = 64;
/// Rows of a table of the vocabulary are a multiple of this on the board.
const VOCABULARY_MULTIPLE: usize = 64;

/// The place of every parameter, those that weight decay pulls at first.
///
/// Tables of the vocabulary have rows added, and there are gaps between parameters. Whatever lies there is zero
/// and stays zero: it gets no gradient, and AdamW leaves a zero without a gradient where it is. Outside a board,
/// parameters have their own shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoardLayout {
    places: Vec<Place>,
    n_decaying: usize,
    len: usize,
}

/// One parameter's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Its shape outside the board.
    pub(crate) dims: Vec<usize>,
    /// Where its own elements lie; added rows follow.
    pub(crate) range: Range<usize>,
}

impl BoardLayout {
    /// The places of `parameters`, of which those that `is_vocabulary` names have a row a token. Neighbours that
    /// `goes_on` names lie right behind the parameter before, so that both are one matrix.
    pub(crate) fn new(
        parameters: &[Parameter],
        is_vocabulary: impl Fn(&str) -> bool,
        goes_on: impl Fn(&str) -> bool,
    ) -> Self {
        let mut places = vec![None; parameters.len()];
        let mut end = 0usize;
        let mut n_decaying = 0;
        for decays in [true, false] {
            for (place, parameter) in places.iter_mut().zip(parameters) {
                if (parameter.var.rank() >= 2) != decays {
                    continue;
                }
                let Parameter { name, var } = parameter;
                let dims = var.dims().to_vec();
                let start = if goes_on(name) { end } else { end.next_multiple_of(ALIGNMENT) };
                let range = start..start + var.elem_count();
                end = match is_vocabulary(name) {
                    true => start + padded_vocabulary(dims[0]) * (var.elem_count() / dims[0]),
                    false => range.end,
                };
                *place = Some(Place { name: name.clone(), dims, range });
            }
            end = end.next_multiple_of(ALIGNMENT);
            if decays {
                n_decaying = end;
            }
        }
        Self { places: places.into_iter().flatten().collect(), n_decaying, len: end }
    }

    /// All parameters, in the model's order.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Where the parameter `name` starts, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.places.iter().find(|place| place.name == name).map(|place| place.range.start)
    }

    /// Elements that decay; they come first.
    pub(crate) fn n_decaying(&self) -> usize {
        self.n_decaying
    }

    /// Elements of all, gaps among them.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Rows on the board of a table with a row for each of `n` tokens.
pub(crate) fn padded_vocabulary(n: usize) -> usize {
    n.next_multiple_of(VOCABULARY_MULTIPLE)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::parameter::ParameterBuilder;

    #[test]
    fn parameters_are_aligned_and_tables_are_padded() {
        let device = Device::Cpu;
        let mut builder = ParameterBuilder::new(1, &device);
        for (name, dims) in [("table", &[65, 2][..]), ("norm", &[3]), ("q", &[5, 3]), ("k", &[2, 3])] {
            builder.zeros(name, dims).unwrap();
        }
        let layout = BoardLayout::new(&builder.finish(), |name| name == "table", |name| name == "k");
        let ranges: Vec<_> = layout.places().iter().map(|place| place.range.clone()).collect();
        assert_eq!(ranges, [0..130, 320..323, 256..271, 271..277]);
        assert_eq!((layout.n_decaying(), layout.len()), (320, 384));
        assert_eq!((layout.find("k"), layout.find("v")), (Some(271), None));
    }
}
