//! `vitscope features`: the latents that fire in an image, and what each contributes to a text's score.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Map, Value, json};
use vitscope::{
    Error,
    backend::PatchGrid,
    engine::LatentUse,
    image::{Colormap, OverlayOptions, Scale, render_overlay, write_png},
    model::Score,
    report::{JsonLines, slug, write_npy},
};

use super::{
    args::{ModelArgs, PreprocessArgs, SaeArgs, TextArgs},
    console::{Console, number, signed, table},
    inputs::{self, BUNDLED},
    latents::{SortBy, ranked},
    pictures::{Ready, read_one},
    setup,
};

/// List the latents that fire in an image, by activation and by contribution to a text's score
///
/// The contribution is activation times gradient, summed over the tokens: to first order what the score loses when the
/// latent is set to zero. Without a text only activations are listed. Without anything it tells what the bundled
/// picture's things are made of.
#[derive(Args)]
pub struct FeaturesArgs {
    /// The picture [default: a bundled scene]
    image: Option<PathBuf>,
    #[command(flatten)]
    texts: TextArgs,
    /// What the contribution is to: cosine, logit, softmax (over the given texts) or latent:ID
    #[arg(long, default_value = "cosine")]
    score: Score,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sae: SaeArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    /// How many latents to list
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// What ranks them [default: contribution with a text, else activation]
    #[arg(long, value_enum)]
    sort: Option<SortBy>,
    /// Write features.jsonl and each latent's patch maps and overlays to this folder
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints the latents, and writes their maps.
pub fn run(args: &FeaturesArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let mut texts = setup::texts(&args.texts)?;
    if args.image.is_none() && texts.is_empty() && !matches!(args.score, Score::Latent(_)) && args.sort.is_none() {
        texts = BUNDLED.prompts.iter().map(|&text| text.to_owned()).collect();
    }
    let attributed = !texts.is_empty() || matches!(args.score, Score::Latent(_));
    let sort = match (args.sort, attributed) {
        (Some(SortBy::Contribution), false) => {
            return Err(Error::usage("--sort contribution needs a text: give --text").into());
        }
        (Some(sort), _) => sort,
        (None, true) => SortBy::Contribution,
        (None, false) => SortBy::Activation,
    };
    let sae = setup::needed_sae(&args.model, &args.sae, Vec::new(), console)?;
    let mut asked = setup::ask(
        setup::open(&args.model, console)?,
        setup::latents_request(sae, texts, &args.texts.template, args.score, args.model.seed),
        console,
    )?;
    let input = inputs::one(args.image.as_deref())?;
    let preprocess = setup::preprocess(&args.preprocess, &asked.engine);
    let ready = read_one(&input, &preprocess, &setup::decode(&args.preprocess))?;
    let explanations = asked.engine.explain(&[&ready.prepared], &asked.question)?;
    let explanation = explanations.first().ok_or_else(|| Error::usage("no image was explained"))?;
    let uses = ranked(explanation, asked.question.targets(), sort)?;
    let firing = uses.len();

    let mut options = setup::options(&asked, &preprocess, args.preprocess.exif)?;
    if !attributed {
        // The score that stands in for none decides nothing.
        options["score"] = Value::Null;
    }
    let listing = Listing {
        image: &input.name,
        labels: match (attributed, &asked.question.texts[..]) {
            (false, _) => Vec::new(),
            (true, []) => vec![args.score.to_string()],
            (true, texts) => texts.to_vec(),
        },
        grid: asked.engine.grid(ready.prepared.width, ready.prepared.height)?,
        ready: &ready,
        options,
    };
    let uses = &uses[..firing.min(args.top)];
    let lines = match &args.output {
        None => uses.iter().enumerate().map(|(rank, latent)| listing.line(rank, latent)).collect(),
        Some(folder) => listing.write(folder, uses)?,
    };
    console.result(|| listing.human(uses), || lines)?;
    setup::say_kernels(asked.engine.kernels_used(), console);
    console.say(&format!("{firing} latents fire; {} are listed", uses.len()));
    Ok(ExitCode::SUCCESS)
}

/// The latents of one image.
struct Listing<'a> {
    image: &'a str,
    /// What there are contributions to; empty without a text.
    labels: Vec<String>,
    grid: PatchGrid,
    ready: &'a Ready,
    options: Value,
}

impl Listing<'_> {
    fn human(&self, uses: &[LatentUse]) -> String {
        let mut names = vec!["latent", "activation", "peak", "tokens"];
        names.extend(self.labels.iter().map(String::as_str));
        let rows: Vec<Vec<String>> = uses
            .iter()
            .map(|latent| {
                let mut row = vec![
                    latent.id.to_string(),
                    number(latent.activation),
                    number(latent.peak),
                    latent.tokens.to_string(),
                ];
                row.extend(latent.contribution.iter().take(self.labels.len()).map(|&c| signed(c)));
                row
            })
            .collect();
        table(&names, &rows)
    }

    fn line(&self, rank: usize, latent: &LatentUse) -> Value {
        let contributions: Map<String, Value> =
            self.labels.iter().zip(&latent.contribution).map(|(label, &c)| (label.clone(), json!(c))).collect();
        json!({
            "image": self.image,
            "rank": rank,
            "latent": latent.id,
            "activation": latent.activation,
            "peak": latent.peak,
            "tokens": latent.tokens,
            "contribution": contributions,
            "grid": [self.grid.rows, self.grid.cols],
            "options": self.options,
        })
    }

    /// Writes maps, overlays and the index.
    fn write(&self, folder: &Path, uses: &[LatentUse]) -> anyhow::Result<Vec<Value>> {
        for name in ["maps", "overlays"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(|e| Error::io(path, e))?;
        }
        let mut lines = Vec::new();
        for (rank, latent) in uses.iter().enumerate() {
            let mut line = self.line(rank, latent);
            let caption = format!("latent {} · activation {}", latent.id, number(latent.activation));
            let files = self.files(folder, latent, "activation", &latent.activation_map, Colormap::Turbo, caption)?;
            line["activation_map"] = files.0;
            line["activation_overlay"] = files.1;
            let (mut maps, mut overlays) = (Map::new(), Map::new());
            for (i, label) in self.labels.iter().enumerate() {
                let caption =
                    format!("latent {} · contribution to {label} {}", latent.id, signed(latent.contribution[i]));
                let kind = format!("contribution-{i}-{}", slug(label, 40));
                let map = &latent.contribution_maps[i];
                let files = self.files(folder, latent, &kind, map, Colormap::RdBu, caption)?;
                maps.insert(label.clone(), files.0);
                overlays.insert(label.clone(), files.1);
            }
            line["contribution_map"] = maps.into();
            line["contribution_overlay"] = overlays.into();
            lines.push(line);
        }
        JsonLines::with_lines(&folder.join("features.jsonl"), &[])?.append(&lines)?;
        Ok(lines)
    }

    fn files(
        &self,
        folder: &Path,
        latent: &LatentUse,
        kind: &str,
        map: &[f32],
        colormap: Colormap,
        caption: String,
    ) -> anyhow::Result<(Value, Value)> {
        let PatchGrid { rows, cols, .. } = self.grid;
        let (height, width) = self.grid.covered();
        let npy = format!("maps/latent-{}-{kind}.npy", latent.id);
        write_npy(&folder.join(&npy), &[rows, cols], map)?;
        let png = format!("overlays/latent-{}-{kind}.png", latent.id);
        // An activation is drawn from zero, so that a latent that fires everywhere does not look local.
        let scale = match colormap.is_diverging() {
            true => Scale::symmetric(&[map])?,
            false => Scale::of(&[map, &[0.0]])?,
        };
        let options = OverlayOptions {
            colormap,
            scale: Some(scale),
            region: Some(self.ready.part(height, width)),
            caption: Some(caption),
            ..OverlayOptions::default()
        };
        write_png(folder.join(&png), &render_overlay(&self.ready.original, map, rows, cols, &options)?)?;
        Ok((npy.into(), png.into()))
    }
}
