//! Every wrapper of the headers has a probe.
//!
//! A probe's kernel names what it covers in `// covers:` lines, by name and types of parameters.

use std::collections::{BTreeMap, BTreeSet};

use vitscope::backend::gpu::jit::{CompileLog, HEADERS, KERNELS, Source, Wanted};

use crate::{
    device,
    probes::{file, tell},
};

static PROBES: [Source; 7] = [
    file!("threads.cu"),
    file!("numbers.cu"),
    file!("matrices.cu"),
    file!("copies.cu"),
    file!("mbarriers.cu"),
    file!("tiles.cu"),
    file!("wgmma.cu"),
];

/// Headers of which everything is probed, also what is written once over the instructions. Of the others it is what
/// has two bodies.
const INSTRUCTIONS: [&str; 10] =
    ["types", "vec", "reduce", "scan", "barrier", "copy_async", "exact", "mma", "tma", "wgmma"];

/// Functions of C's mathematics: a body of the compiler's on each side.
const MATHEMATICS: &str = "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim \
                           floor fma fmax fmin fmod frexp hypot ilogb ldexp lgamma log log10 log1p log2 logb modf nearbyint pow \
                           remainder rint round sin sinh sqrt tan tanh tgamma trunc";

/// What a function or macro is for: one device, the other, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Emulated,
    Gpu,
    Both,
}

/// The text without comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What commas outside of brackets part.
fn parts(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    list.split(move |c: char| {
        depth += i32::from("(<[".contains(c)) - i32::from(")>]".contains(c));
        c == ',' && depth == 0
    })
    .map(str::trim)
}

/// `(float x, const u32 (&a)[4], bool is = true)` without the names and defaults.
fn types(parameters: &str) -> String {
    let one = |parameter: &str| {
        let parameter = parameter.split('=').next().unwrap_or_default().trim();
        if let Some((before, after)) = parameter.split_once("(&") {
            return format!("{before}(&{}", &after[after.find(')').unwrap_or(0)..]);
        }
        let words: Vec<&str> = parameter.split_whitespace().collect();
        let kept =
            if words.iter().filter(|&&word| word != "const").count() > 1 { words.len() - 1 } else { words.len() };
        words[..kept].join(" ")
    };
    parts(parameters).map(one).collect::<Vec<_>>().join(", ")
}

/// The lines of a text with their sides.
fn sides(code: &str) -> impl Iterator<Item = (Side, &str)> {
    let mut side = Side::Both;
    code.lines().map(move |line| {
        side = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["#ifdef", "VITSCOPE_EMULATED"] => Side::Emulated,
            ["#else"] | ["#elif", ..] if side == Side::Emulated => Side::Gpu,
            ["#endif"] => Side::Both,
            _ => side,
        };
        (side, line)
    })
}

/// Functions, and macros that stay defined, of a header, with their sides.
fn declared(header: &Source) -> Vec<(Side, String)> {
    let code = code(header.text).replace("\\\n", "");
    let undefined: BTreeSet<&str> = code.lines().filter_map(|line| line.strip_prefix("#undef ")).collect();
    let mut found = Vec::new();
    for (side, line) in sides(&code) {
        if let Some(rest) = line.strip_prefix("#define ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if side != Side::Both && !undefined.contains(name.as_str()) {
                found.push((side, name));
            }
        } else if let Some((_, rest)) = line.split_once("DEV ") {
            let Some((before, after)) = rest.split_once('(') else { continue };
            let name = before.rsplit([' ', '*', '&']).next().unwrap_or_default();
            let mut depth = 1;
            let end = after.find(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            // None of the parameter lists of wrappers goes over its line.
            let Some(end) = end else {
                assert_eq!(side, Side::Both, "{}: {line}: the parameters end in another line", header.name);
                continue;
            };
            found.push((side, format!("{name}({})", types(&after[..end]))));
        }
    }
    found
}

/// What probes cover, and the text in which each says so.
fn covered() -> BTreeMap<String, &'static str> {
    let lines = PROBES.iter().flat_map(|source| source.text.lines().map(|line| (line, source.text)));
    let mut found = BTreeMap::new();
    for (line, text) in lines.filter_map(|(line, text)| Some((line.strip_prefix("// covers: ")?, text))) {
        found.extend(parts(line).map(|name| (name.to_owned(), text)));
    }
    found
}

/// `name` as a word that is called or given template arguments.
fn is_used(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + name.len()..].starts_with(is_word))
}

#[test]
fn every_wrapper_has_a_probe() {
    let covered = covered();
    let mut known = BTreeSet::new();
    let mut missing = Vec::new();
    for header in HEADERS {
        let stem = header.name.trim_start_matches("kernels/include/").trim_end_matches(".cuh");
        let all = INSTRUCTIONS.contains(&stem);
        for (side, name) in declared(header) {
            if (all || side != Side::Both) && !covered.contains_key(&name) {
                missing.push(format!("{}: {name}", header.name));
            }
            known.insert(name);
        }
    }
    assert!(known.len() > 60, "the headers' functions are not found: {known:?}");
    // The compilers' mathematics, as kernels use it.
    let of_gpu = |source: &Source| -> String {
        let code = code(source.text);
        sides(&code).filter(|(side, _)| *side != Side::Emulated).map(|(_, line)| format!("{line}\n")).collect()
    };
    let sources: Vec<String> = [HEADERS, KERNELS].concat().iter().map(of_gpu).collect();
    for name in MATHEMATICS.split_whitespace().flat_map(|name| [name.to_owned(), format!("{name}f")]) {
        if sources.iter().any(|code| is_used(code, &name) && code.contains(&format!("{name}("))) {
            let is_covered = covered.keys().any(|covered| covered.split('(').next() == Some(&name));
            if !is_covered {
                missing.push(format!("mathematics: {name}"));
            }
            known.insert(name);
        }
    }
    assert!(missing.is_empty(), "no probe covers\n{}", missing.join("\n"));
    for (name, text) in &covered {
        assert!(known.contains(name), "a probe covers {name}, which is in no header");
        let short = name.split('(').next().unwrap_or_default();
        // A macro or function of the same file's may stand between.
        assert!(is_used(&code(text), short), "a probe covers {name} and does not use it");
    }
}

#[test]
fn every_wrapper_has_both_bodies() {
    // A builtin of NVRTC's.
    const BUILTIN: &str = "rsqrtf(float)";
    for header in HEADERS {
        let of = |side| -> BTreeSet<String> {
            declared(header)
                .into_iter()
                .filter(|(s, name)| *s == side && name != BUILTIN)
                .map(|(_, name)| name)
                .collect()
        };
        assert_eq!(of(Side::Emulated), of(Side::Gpu), "{}", header.name);
    }
}

/// With NVRTC at hand, and that is said where there is none: what will run on a GPU compiles. On a GPU it does so anyway.
#[test]
fn probes_compile_for_gpus() {
    if device::name() != "emulated" {
        return;
    }
    let nvrtc = match device::nvrtc() {
        Ok(nvrtc) => nvrtc,
        Err(error) => return tell(&format!("probes are not compiled for GPUs: {error}")),
    };
    for (source, name) in PROBES.iter().flat_map(|source| ["sm_80", "sm_90a", "sm_100a"].map(|name| (source, name))) {
        let wanted = Wanted { source, architecture: name.parse().unwrap(), defines: &[] };
        let log = CompileLog::parse(&nvrtc.cubin(wanted).unwrap().log);
        assert!(log.remarks.is_empty(), "{} {name}: {:?}", source.name, log.remarks);
        let spilled = log.usages.iter().find(|usage| usage.spill_stores + usage.spill_loads + usage.stack > 0);
        assert!(spilled.is_none(), "{} {name}: {spilled:?}", source.name);
    }
}
