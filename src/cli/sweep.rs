//! `vitscope sweep`: edits one by one, and what each changes.

use std::{fmt, path::PathBuf, process::ExitCode, str::FromStr};

use clap::Args;
use serde_json::{Value, json};
use vitscope::{
    Error,
    engine::{MapValues, Pictured, Question, Request},
    files::write_file,
    image::Prepared,
    model::{Edit, NamedMethod, Score},
    report::JsonLines,
};

use super::{
    args::{ModelArgs, PreprocessArgs, SaeArgs, TextArgs},
    console::{Console, number, signed, table},
    inputs,
    latents::{SortBy, ranked},
    map_change::MapChange,
    pictures::read_one,
    setup::{self, Asked},
};

/// Apply edits of latents one by one, and tabulate what each changes in score and map
#[derive(Args)]
pub struct SweepArgs {
    /// Pictures, folders and patterns [default: a bundled scene]
    images: Vec<PathBuf>,
    #[command(flatten)]
    texts: TextArgs,
    /// cosine, logit, softmax (over the given texts) or latent:ID
    #[arg(long, default_value = "cosine")]
    score: Score,
    /// The heatmap whose change is measured
    #[arg(long, default_value = "grad-eclip")]
    method: NamedMethod,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sae: SaeArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    /// A file with one edit per line, such as zero:12,55 or scale:7=2.5; several on one line are made together
    #[arg(long, value_name = "FILE", conflicts_with_all = ["latents", "edit"], required_unless_present = "latents")]
    edits_file: Option<PathBuf>,
    /// The latents to edit, each alone: ID,... or top:N (those that contribute most to the first text)
    #[arg(long, value_name = "IDS|top:N")]
    latents: Option<Chosen>,
    /// What is done to each of them: zero, scale=FACTOR, set=VALUE, add=DELTA or keep
    #[arg(long, default_value = "zero", value_name = "EDIT")]
    edit: Change,
    /// Write sweep.csv and sweep.jsonl to this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Which latents are edited.
#[derive(Clone, Debug, PartialEq)]
enum Chosen {
    /// Those that contribute most.
    Top(usize),
    /// These.
    Ids(Vec<usize>),
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || "expected ID,... or top:N".to_owned();
        match s.strip_prefix("top:") {
            Some(n) => n.parse().ok().filter(|&n| n > 0).map(Chosen::Top).ok_or_else(bad),
            None => {
                s.split(',').map(|id| id.trim().parse().map_err(|_| bad())).collect::<Result<_, _>>().map(Chosen::Ids)
            }
        }
    }
}

/// What is done to a latent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Zero,
    Keep,
    Scale(f64),
    Set(f64),
    Add(f64),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let value = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite());
        let known = match s.split_once('=') {
            None if s == "zero" => Some(Change::Zero),
            None if s == "keep" => Some(Change::Keep),
            Some(("scale", v)) => value(v).map(Change::Scale),
            Some(("set", v)) => value(v).map(Change::Set),
            Some(("add", v)) => value(v).map(Change::Add),
            _ => None,
        };
        known.ok_or_else(|| "expected zero, scale=FACTOR, set=VALUE, add=DELTA or keep".into())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Zero => f.write_str("zero"),
            Change::Keep => f.write_str("keep"),
            Change::Scale(v) => write!(f, "scale={v}"),
            Change::Set(v) => write!(f, "set={v}"),
            Change::Add(v) => write!(f, "add={v}"),
        }
    }
}

impl Change {
    fn of(self, latent: usize) -> Edit {
        match self {
            Change::Zero => Edit::Zero(vec![latent]),
            Change::Keep => Edit::Keep(vec![latent]),
            Change::Scale(v) => Edit::Scale(vec![latent], v),
            Change::Set(v) => Edit::Set(vec![latent], v),
            Change::Add(v) => Edit::Add(vec![latent], v),
        }
    }
}

/// Applies all edits to all images.
pub fn run(args: &SweepArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let fixed = fixed_edits(args)?;
    // All edits at once are checked against the SAE; each is then asked for alone.
    let sae = setup::needed_sae(&args.model, &args.sae, fixed.iter().flatten().flatten().cloned().collect(), console)?;
    let request = Request {
        texts: setup::texts(&args.texts)?,
        template: args.texts.template.clone(),
        score: args.score,
        methods: vec![args.method.clone()],
        sae: Some(sae),
        latents: false,
        seed: args.model.seed,
    };
    let mut asked = setup::ask(setup::open(&args.model, console)?, request, console)?;
    let preprocess = setup::preprocess(&args.preprocess, &asked.engine);
    let inputs = inputs::collect(&args.images, args.output.as_deref());
    let mut options = setup::options(&asked, &preprocess, args.preprocess.exif)?;
    options["method"] = args.method.method.canonical().into();
    let mut output = args.output.as_deref().map(Output::open).transpose()?;
    let mut failed = 0;
    for input in &inputs {
        let ready = match read_one(input, &preprocess, &setup::decode(&args.preprocess)) {
            Ok(ready) => ready,
            Err(error) => {
                failed += 1;
                console.error(&error.to_string());
                continue;
            }
        };
        let edits = match &fixed {
            Some(edits) => edits.clone(),
            None => top_edits(args, &mut asked, &ready.prepared)?,
        };
        let rows = rows(&mut asked, &input.name, &ready.prepared, &edits)?;
        let lines: Vec<Value> = rows.iter().map(|row| row.line(&options)).collect();
        if let Some(output) = &mut output {
            output.append(&rows, &lines)?;
        }
        console.result(|| human(&input.name, &rows), || lines)?;
    }
    setup::say_kernels(asked.engine.kernels_used(), console);
    if failed > 0 {
        console.error(&format!("{failed} of {} images failed", inputs.len()));
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// The edits that are the same for all images.
fn fixed_edits(args: &SweepArgs) -> anyhow::Result<Option<Vec<Vec<Edit>>>> {
    if let Some(Chosen::Ids(ids)) = &args.latents {
        return Ok(Some(ids.iter().map(|&id| vec![args.edit.of(id)]).collect()));
    }
    let Some(path) = &args.edits_file else { return Ok(None) };
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::usage(format!("--edits-file {}: {e}", path.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let edits = lines.map(|line| line.split_whitespace().map(str::parse).collect()).collect::<Result<Vec<_>, _>>()?;
    if edits.is_empty() {
        return Err(Error::usage(format!("--edits-file {}: holds no edit", path.display())).into());
    }
    Ok(Some(edits))
}

/// An edit for each of the latents that contribute most to the first text.
fn top_edits(args: &SweepArgs, asked: &mut Asked, image: &Prepared) -> anyhow::Result<Vec<Vec<Edit>>> {
    let Some(Chosen::Top(count)) = args.latents else { return Ok(Vec::new()) };
    let question = Question { latents: true, methods: Vec::new(), ..with_edits(&asked.question, &[]) };
    let explanations = asked.engine.explain(&[image], &question)?;
    let mut edits = Vec::new();
    for explanation in &explanations {
        let uses = ranked(explanation, question.targets(), SortBy::Contribution)?;
        edits.extend(uses.iter().take(count).map(|latent| vec![args.edit.of(latent.id as usize)]));
    }
    Ok(edits)
}

fn with_edits(question: &Question, edits: &[Edit]) -> Question {
    let mut question = question.clone();
    if let Some(splice) = &mut question.splice {
        splice.edits = edits.to_vec();
    }
    question
}

/// What one edit changed for one text.
struct Row {
    image: String,
    text: Option<String>,
    edit: String,
    before: f64,
    after: f64,
    change: MapChange,
}

/// A row for each edit and text.
fn rows(asked: &mut Asked, image: &str, prepared: &Prepared, edits: &[Vec<Edit>]) -> anyhow::Result<Vec<Row>> {
    let Asked { engine, question, .. } = asked;
    let all = engine.explain_edits(prepared, question, edits)?;
    let Some((before, edited)) = all.split_first() else { return Ok(Vec::new()) };
    let row = |edit: &[Edit], before: &MapValues, after: &MapValues| Row {
        image: image.to_owned(),
        text: question.texts.get(after.text).cloned(),
        edit: edit.iter().map(Edit::to_string).collect::<Vec<_>>().join(" "),
        before: before.score,
        after: after.score,
        change: MapChange::between(&before.exact, &after.exact),
    };
    let of_edit = |(edit, after): (&Vec<Edit>, &Pictured)| -> Vec<Row> {
        before.maps.iter().zip(&after.maps).map(|(before, after)| row(edit, before, after)).collect()
    };
    Ok(edits.iter().zip(edited).flat_map(of_edit).collect())
}

impl Row {
    fn line(&self, options: &Value) -> Value {
        let mut options = options.clone();
        options["sae"]["edits"] = self.edit.split(' ').collect();
        json!({
            "image": self.image,
            "text": self.text,
            "edit": self.edit,
            "score": { "before": self.before, "after": self.after, "change": self.after - self.before },
            "map": {
                "l1": self.change.l1,
                "l2": self.change.l2,
                "pearson": self.change.pearson,
                "iou_top10": self.change.iou_top10,
            },
            "options": options,
        })
    }

    fn csv(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let MapChange { l1, l2, pearson, iou_top10 } = self.change;
        let pearson = pearson.map_or(String::new(), |v| v.to_string());
        let words = [&self.image, self.text.as_deref().unwrap_or_default(), &self.edit].map(quoted).join(",");
        let (before, after, change) = (self.before, self.after, self.after - self.before);
        format!("{words},{before},{after},{change},{l1},{l2},{pearson},{iou_top10}\n")
    }
}

const CSV_NAMES: &str =
    "image,text,edit,score_before,score_after,score_change,map_l1,map_l2,map_pearson,map_iou_top10\n";

/// `sweep.csv` and `sweep.jsonl`.
struct Output {
    folder: PathBuf,
    index: JsonLines,
    csv: String,
}

impl Output {
    fn open(folder: &std::path::Path) -> vitscope::Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let index = JsonLines::with_lines(&folder.join("sweep.jsonl"), &[])?;
        Ok(Output { folder: folder.to_path_buf(), index, csv: CSV_NAMES.to_owned() })
    }

    fn append(&mut self, rows: &[Row], lines: &[Value]) -> vitscope::Result<()> {
        self.index.append(lines)?;
        self.csv.extend(rows.iter().map(Row::csv));
        write_file(&self.folder.join("sweep.csv"), self.csv.as_bytes())
    }
}

fn human(image: &str, rows: &[Row]) -> String {
    let mut out = String::new();
    let mut texts: Vec<&Option<String>> = rows.iter().map(|row| &row.text).collect();
    texts.dedup();
    texts.truncate(rows.iter().filter(|row| row.edit == rows[0].edit).count());
    for text in texts {
        let title = text.as_ref().map_or(image.to_owned(), |text| format!("{image}, {text}"));
        let names = [title.as_str(), "before", "after", "change", "map L1", "map L2", "Pearson", "top-10% IoU"];
        let of_text = rows.iter().filter(|row| row.text == *text);
        let cells: Vec<Vec<String>> = of_text
            .map(|row| {
                vec![
                    row.edit.clone(),
                    number(row.before),
                    number(row.after),
                    signed(row.after - row.before),
                    number(row.change.l1),
                    number(row.change.l2),
                    row.change.pearson.map_or("–".into(), number),
                    number(row.change.iou_top10),
                ]
            })
            .collect();
        out.push_str(&table(&names, &cells));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_latents_and_changes_are_parsed() {
        assert_eq!("top:5".parse(), Ok(Chosen::Top(5)));
        assert_eq!("3, 1".parse(), Ok(Chosen::Ids(vec![3, 1])));
        for bad in ["", "top:0", "top:x", "a", "1,,2"] {
            assert!(bad.parse::<Chosen>().is_err(), "{bad}");
        }
        for text in ["zero", "keep", "scale=2", "set=-1.5", "add=0.25"] {
            assert_eq!(text.parse::<Change>().unwrap().to_string(), text);
        }
        for bad in ["zero=1", "scale", "scale=x", "set=inf", "double"] {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
        assert_eq!(Change::Scale(2.0).of(7).to_string(), "scale:7=2");
    }
}
