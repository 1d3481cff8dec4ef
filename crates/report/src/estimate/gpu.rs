//! Boards: how fast they could be, and what they may draw.

/// A board by its data sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// Peak of dense matrix products in bf16 or fp16 with fp32 accumulation, in TFLOP/s.
    pub peak_tflops: f64,
    /// Thermal design power.
    pub tdp_w: f64,
    /// Where the figures come from.
    pub source: &'static str,
}

/// Every board there is a data sheet of here. Figures "with sparsity" are halved.
pub static GPUS: [Gpu; 8] = [
    Gpu { name: "V100", peak_tflops: 125.0, tdp_w: 300.0, source: "NVIDIA data sheet, V100 SXM2" },
    Gpu { name: "A100", peak_tflops: 312.0, tdp_w: 400.0, source: "NVIDIA data sheet, A100 SXM" },
    Gpu { name: "A100-PCIe", peak_tflops: 312.0, tdp_w: 300.0, source: "NVIDIA data sheet, A100 80 GB PCIe" },
    Gpu { name: "H100", peak_tflops: 989.0, tdp_w: 700.0, source: "NVIDIA data sheet, H100 SXM" },
    Gpu { name: "H200", peak_tflops: 989.0, tdp_w: 700.0, source: "NVIDIA data sheet, H200 SXM" },
    Gpu { name: "L40S", peak_tflops: 362.0, tdp_w: 350.0, source: "NVIDIA data sheet, L40S" },
    Gpu { name: "L4", peak_tflops: 121.0, tdp_w: 72.0, source: "NVIDIA data sheet, L4" },
    Gpu {
        name: "RTX-4090",
        peak_tflops: 165.2,
        tdp_w: 450.0,
        source: "NVIDIA Ada GPU architecture whitepaper, appendix A",
    },
];

/// A board by its name, in any case and with or without hyphens and spaces.
///
/// # Errors
/// If there is no such board; the message lists those there are.
pub fn find(name: &str) -> Result<&'static Gpu, String> {
    let plain = |name: &str| name.replace(['-', ' ', '_'], "").to_lowercase();
    GPUS.iter().find(|gpu| plain(gpu.name) == plain(name)).ok_or_else(|| {
        let names: Vec<_> = GPUS.iter().map(|gpu| gpu.name).collect();
        format!("--gpu {name}: expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_found_however_they_are_spelt() {
        assert_eq!(find("rtx 4090").unwrap().name, "RTX-4090");
        assert_eq!(find("a100").unwrap().tdp_w, 400.0);
        let error = find("B300").unwrap_err();
        assert!(error.contains("--gpu B300") && error.contains("H200"), "{error}");
    }
}
