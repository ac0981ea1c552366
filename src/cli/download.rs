//! Models that are not in the cache yet come from the hub (feature `hub`).

use indicatif::{ProgressBar, ProgressStyle};
use vitscope::{
    Result,
    weights::{Hub, HubCache, HubId},
};

use super::console::Console;

/// Downloads a model, unless it is in the cache. A broken download goes on where it stopped.
///
/// # Errors
/// Those of [`Hub::download`].
pub fn fetch(id: &HubId, console: &Console) -> Result<()> {
    if HubCache::from_env()?.snapshot(id).is_some() {
        return Ok(());
    }
    console.say(&format!("downloading {id}"));
    let bar = if console.is_quiet() { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) =
        ProgressStyle::with_template("{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    let folder = Hub::from_env()?.download(id, &mut |progress| {
        bar.set_message(progress.file.to_owned());
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    console.detail(&format!("downloaded to {}", folder.display()));
    Ok(())
}
