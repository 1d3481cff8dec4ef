//! The formats of eight bits against their definition.

use wattle_ops::fp8::reference::{nearest, number};
use wattle_ops::fp8::{Format, NAN, cpu};

#[test]
fn every_code_is_the_number_that_its_fields_say() {
    for format in Format::ALL {
        for code in 0..=255u8 {
            let got = format.decode(code);
            match number(format, code) {
                Some(expected) => {
                    assert_eq!(f64::from(got), expected, "{format:?} {code:#04x}");
                    assert_eq!(got.is_sign_negative(), code & 0x80 != 0, "{format:?} {code:#04x}");
                    assert_eq!(format.encode(got), code, "{format:?} {code:#04x}");
                }
                None => assert!(!got.is_finite(), "{format:?} {code:#04x}: {got}"),
            }
        }
    }
}

/// Tables 1 and 2 of Micikevicius et al., 2022.
#[test]
#[expect(clippy::unusual_byte_groupings, reason = "sign, exponent and mantissa")]
fn the_formats_have_the_numbers_of_the_paper() {
    use Format::{E4m3, E5m2};
    for (format, code, expected) in [
        (E4m3, 0b0_1111_110, 448.0),
        (E4m3, 0b0_0001_000, 2f32.powi(-6)),
        (E4m3, 0b0_0000_111, 0.875 * 2f32.powi(-6)),
        (E4m3, 0b0_0000_001, 2f32.powi(-9)),
        (E5m2, 0b0_11110_11, 57_344.0),
        (E5m2, 0b0_00001_00, 2f32.powi(-14)),
        (E5m2, 0b0_00000_11, 0.75 * 2f32.powi(-14)),
        (E5m2, 0b0_00000_01, 2f32.powi(-16)),
        (E5m2, 0b1_11111_00, f32::NEG_INFINITY),
    ] {
        assert_eq!(format.decode(code), expected, "{format:?} {code:#010b}");
    }
    assert!(E4m3.decode(0b0_1111_111).is_nan() && E5m2.decode(0b1_11111_01).is_nan());
    assert_eq!((E4m3.largest(), E5m2.largest()), (448.0, 57_344.0));
}

#[test]
fn rounding_is_to_the_nearest_with_ties_to_even() {
    for format in Format::ALL {
        let numbers: Vec<f32> = (0..0x7f).filter_map(|code| Some(number(format, code)? as f32)).collect();
        for pair in numbers.windows(2) {
            let tie = pair[0].midpoint(pair[1]);
            for x in [pair[0], tie.next_down(), tie, tie.next_up(), pair[1].next_down()] {
                for x in [x, -x] {
                    assert_eq!(format.encode(x), nearest(format, x), "{format:?} {x:e}");
                }
            }
            assert_eq!(format.encode(tie) % 2, 0, "{format:?} {tie:e}");
        }
    }
}

#[test]
fn what_is_too_large_is_the_largest_and_what_is_no_number_stays_none() {
    for format in Format::ALL {
        let largest = format.largest();
        for x in [largest.next_up(), largest * 1.5, f32::MAX, f32::INFINITY] {
            assert_eq!(format.decode(format.encode(x)), largest, "{format:?} {x}");
            assert_eq!(format.decode(format.encode(-x)), -largest, "{format:?} {x}");
        }
        for x in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert_eq!(format.encode(x), NAN);
            assert!(format.decode(format.encode(x)).is_nan());
        }
        for x in [f32::MIN_POSITIVE, f32::from_bits(1)] {
            assert_eq!(format.encode(x), 0);
        }
    }
}

#[test]
fn a_scale_is_the_least_power_of_two_that_holds_the_largest() {
    for format in Format::ALL {
        let largest = format.largest();
        for exponent in -100..=100 {
            let power = 2f32.powi(exponent);
            for size in [largest * power, (largest * power).next_down(), (0.51 * largest) * power] {
                assert_eq!(format.scale(size.to_bits()), power, "{format:?} {size:e}");
            }
            assert_eq!(format.scale((largest * power).next_up().to_bits()), 2.0 * power, "{format:?}");
        }
        assert_eq!(format.scale(0), 1.0);
        assert!(format.scale(f32::INFINITY.to_bits()).is_nan());
        assert!(format.scale(f32::NAN.to_bits()).is_nan());
        for tiny in [f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX] {
            let scale = format.scale(tiny.to_bits());
            assert!(scale.is_normal() && (1.0 / scale).is_normal() && tiny <= scale * largest, "{tiny:e}");
        }
    }
}

#[test]
fn one_infinity_makes_a_whole_tensor_no_number() {
    let mut x = vec![1.0; 100];
    x[70] = f32::NEG_INFINITY;
    let mut out = vec![0.0; 100];
    assert!(cpu::round_par(&mut out, &x, Format::E5m2).is_nan());
    assert!(out.iter().all(|x| x.is_nan()));
}

#[test]
fn a_tensor_is_rounded_by_its_own_scale() {
    let x: Vec<f32> = (0..40_000).map(|i| (i as f32 - 7000.0) * 1e-3).collect();
    let mut out = vec![0.0; x.len()];
    let scale = cpu::round_par(&mut out, &x, Format::E4m3);
    assert_eq!(scale, 2f32.powi(-3), "the largest is 32.999, and 448 / 8 = 56 holds it");
    for (&x, &out) in x.iter().zip(&out) {
        let expected = number(Format::E4m3, nearest(Format::E4m3, x / scale)).unwrap() * f64::from(scale);
        assert_eq!(f64::from(out), expected, "{x}");
    }
}
