//! `vitscope bench` on the emulated GPU: the kernels one by one, and what says that its times are no GPU's.

use super::{json_lines, stderr, stdout, vitscope};

#[test]
fn kernels_are_checked_and_counted_on_the_emulated_device() {
    let folder = tempfile::tempdir().unwrap();
    let args = "bench kernels --json --device emulated --model random:tiny --batch-size 1 --latents 64 --active 4 \
                --only gemm_forward --only sae_decode_latent --dtype bf16";
    let run = vitscope(folder.path(), &args.split_whitespace().collect::<Vec<_>>()).success();
    assert!(stderr(&run).contains("emulated: no times"));
    let lines = json_lines(&stdout(&run));
    let found: Vec<String> =
        lines.iter().map(|line| format!("{}={}", line["kernel"].as_str().unwrap(), line["rung"])).collect();
    let latents =
        ["sae_decode_latent=1", "sae_decode_latent=2", "sae_decode_latent_reverse=1", "sae_decode_latent_reverse=2"];
    let products = ["gemm_forward=1", "gemm_forward=2", "gemm_forward=3"].repeat(4);
    assert_eq!(found, [&products[..], &latents].concat());
    for line in lines {
        assert!(line["right"] == true && line["emulated"] == true && line["dtype"] == "bf16", "{line}");
        assert!(line["counters"]["global_sectors"].as_u64().unwrap() > 0, "{line}");
        assert!(line.get("seconds").is_none() && line.get("tflops").is_none(), "{line}");
    }
}

#[test]
fn a_forced_rung_is_measured_alone() {
    let folder = tempfile::tempdir().unwrap();
    let args = "bench kernels --device emulated --model random:tiny --batch-size 1 --kernel rows_add=2 --dtype f16";
    let run = vitscope(folder.path(), &args.split_whitespace().collect::<Vec<_>>()).success();
    let table = stdout(&run);
    assert!(table.lines().count() == 2 && table.contains("rows_add=2") && !table.contains("us"), "{table}");
}

#[test]
fn whole_passes_on_the_emulated_device_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        "bench -v --json --device emulated --model random:tiny --pass forward --batch-size 1 --repeat 1 --warm 0";
    let run = vitscope(folder.path(), &args.split_whitespace().collect::<Vec<_>>()).success();
    let line = &json_lines(&stdout(&run))[0];
    assert!(line["emulated"] == true && line["dtype"] == "bf16", "{line}");
    let said = stderr(&run);
    assert!(
        said.contains("not those of a GPU") && said.contains("kernels used: attention_forward=2 gemm_forward="),
        "{said}"
    );
}

#[test]
fn names_and_devices_without_kernels_are_2() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |args: &str, said: &str| {
        let run = vitscope(folder.path(), &args.split_whitespace().collect::<Vec<_>>()).code(2);
        assert!(stderr(&run).contains(said), "{}", stderr(&run));
    };
    wrong("bench kernels --device cpu", "kernels on a GPU only");
    wrong("bench kernels --device emulated --only gem", "no kernels of this name");
    wrong("bench kernels --device emulated --active 9 --latents 8", "not more than latents");
}
