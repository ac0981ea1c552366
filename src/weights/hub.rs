//! Downloads a CLIP checkpoint from the Hugging Face hub into the local cache, in the Python library's layout.
//!
//! A file grows under `blobs/ETAG.incomplete` and continues where it stopped; once its size and SHA-256 are right it is
//! renamed and linked into the snapshot. `refs/REVISION` is written last, so a broken download is never taken for whole.

use super::hf_cache::{HubCache, HubId, is_plain};
use super::safetensors_file::read_json;
use crate::error::{Error, Result};
use crate::files::write_file;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, header};

/// Configurations and tokenizers: those that the model has are fetched.
const SMALL_FILES: [&str; 8] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// The first of these that the model has is fetched; an index brings its shards.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
];

const ATTEMPTS: u32 = 5;

/// How far one file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Its name in the model.
    pub file: &'a str,
    /// Bytes on disk.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A hub and the cache that its files go to.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: HubCache,
    /// Follows no redirect: the first answer carries the file's checksum.
    asking: Agent,
    fetching: Agent,
    pause: Duration,
}

impl Hub {
    /// The hub that the environment names: `HF_ENDPOINT` (`https://huggingface.co` if unset), `HF_TOKEN`, and the cache
    /// of [`HubCache::from_env`].
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no cache.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        Ok(Self::new(&endpoint, HubCache::from_env()?, variable("HF_TOKEN"), Duration::from_secs(1)))
    }

    /// A hub at `endpoint`. `pause` is the time before a broken transfer is continued; it doubles each time.
    pub fn new(endpoint: &str, cache: HubCache, token: Option<String>, pause: Duration) -> Self {
        let agent = |redirects| {
            let config = Agent::config_builder()
                .max_redirects(redirects)
                .max_redirects_will_error(redirects > 0)
                .http_status_as_error(false)
                // The token follows a redirect within the hub, never to another host.
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(Duration::from_secs(30)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                .user_agent(concat!("vitscope/", env!("CARGO_PKG_VERSION")))
                // Compressed bytes could be neither counted nor continued.
                .accept_encoding("identity");
            Agent::from(config.build())
        };
        let endpoint = endpoint.trim_end_matches('/').to_string();
        Hub { endpoint, token, cache, asking: agent(0), fetching: agent(10), pause }
    }

    /// Downloads what is missing of a model and returns its snapshot folder.
    ///
    /// # Errors
    /// [`Error::File`] for an unknown or private model, one without safetensors weights, a transfer that keeps
    /// breaking, or a wrong size or checksum; [`Error::Io`] if the cache cannot be written.
    pub fn download(&self, id: &HubId, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf> {
        let folder = self.cache.folder(id);
        let (commit, files) = self.list(id, &folder)?;
        let snapshot = folder.join("snapshots").join(&commit);
        for sub in [folder.join("refs"), folder.join("blobs"), snapshot.clone()] {
            std::fs::create_dir_all(&sub).map_err(|e| Error::io(sub, e))?;
        }
        let Some(weights) = WEIGHTS.into_iter().find(|name| files.contains(*name)) else {
            let reason = format!("`{id}` has no safetensors weights on the hub; pickles are never loaded");
            return Err(Error::file(folder, reason));
        };
        let fetch = |name: &str, progress: &mut dyn FnMut(Progress<'_>)| {
            self.file(id, &commit, name, &folder, &snapshot, progress)
        };
        for name in SMALL_FILES.into_iter().filter(|name| files.contains(*name)) {
            fetch(name, progress)?;
        }
        fetch(weights, progress)?;
        if weights.ends_with(".index.json") {
            let index = read_json(&snapshot.join(weights))?;
            let map = index.get("weight_map").and_then(Value::as_object).into_iter().flatten();
            let shards: BTreeSet<&str> = map.filter_map(|(_, shard)| shard.as_str()).collect();
            for shard in shards {
                if !files.contains(shard) || !is_plain(shard) {
                    let reason = format!("its index names the shard `{shard}`, which the model does not have");
                    return Err(Error::file(snapshot.join(weights), reason));
                }
                fetch(shard, progress)?;
            }
        }
        write_file(&folder.join("refs").join(&id.revision), commit.as_bytes())?;
        Ok(snapshot)
    }

    /// The commit that a revision means, and its files.
    fn list(&self, id: &HubId, folder: &Path) -> Result<(String, BTreeSet<String>)> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, id.name, id.revision);
        let bad = |reason: String| Error::file(folder, format!("{url}: {reason}"));
        let mut request = self.fetching.get(&url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(|e| bad(e.to_string()))?;
        if let Some(reason) = refusal(response.status().as_u16()) {
            return Err(bad(reason));
        }
        let text = response.body_mut().read_to_string().map_err(|e| bad(e.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        let commit = json.get("sha").and_then(Value::as_str).filter(|sha| is_plain(sha));
        let Some(commit) = commit else { return Err(bad("the answer names no commit".into())) };
        let siblings = json.get("siblings").and_then(Value::as_array).into_iter().flatten();
        let name = |sibling: &Value| Some(sibling.get("rfilename")?.as_str()?.to_string());
        Ok((commit.to_string(), siblings.filter_map(name).collect()))
    }

    /// Brings one file into the snapshot.
    fn file(
        &self,
        id: &HubId,
        commit: &str,
        name: &str,
        folder: &Path,
        snapshot: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let link = snapshot.join(name);
        if link.is_file() {
            return Ok(());
        }
        let url = format!("{}/{}/resolve/{commit}/{name}", self.endpoint, id.name);
        let Described { etag, size } = self.describe(&url, &link)?;
        let blob = folder.join("blobs").join(&etag);
        if !blob.is_file() {
            let partial = folder.join("blobs").join(format!("{etag}.incomplete"));
            self.transfer(&url, &partial, size, &mut |done| progress(Progress { file: name, done, total: size }))?;
            check(&partial, &etag)?;
            std::fs::rename(&partial, &blob).map_err(|e| Error::io(&blob, e))?;
        }
        place(&blob, &etag, &link).map_err(|e| Error::io(&link, e))
    }

    /// Asks for a file's tag and size. Large files answer with a redirect to a store; its first answer has them.
    fn describe(&self, url: &str, link: &Path) -> Result<Described> {
        let bad = |reason: String| Error::file(link, format!("{url}: {reason}"));
        let mut at = url.to_string();
        for _ in 0..5 {
            let mut request = self.asking.head(&at);
            if let Some(token) = &self.token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| bad(e.to_string()))?;
            if let Some(reason) = refusal(response.status().as_u16()) {
                return Err(bad(reason));
            }
            let redirect = response.status().is_redirection().then(|| text(&response, "location")).flatten();
            let linked = text(&response, "x-linked-etag");
            let own = || text(&response, "etag").filter(|_| redirect.is_none());
            if let Some(tag) = linked.or_else(own) {
                let etag = tag.trim_start_matches("W/").trim_matches('"').to_string();
                let own_size = || text(&response, "content-length").filter(|_| redirect.is_none());
                let size = text(&response, "x-linked-size").or_else(own_size).and_then(|n| n.parse().ok());
                return match size {
                    Some(size) if is_plain(&etag) => Ok(Described { etag, size }),
                    _ => Err(bad("the answer has no usable tag and size".into())),
                };
            }
            // A redirect within the hub has no tag; elsewhere nobody is asked, and no token is sent.
            match redirect {
                Some(path) if path.starts_with('/') => at = format!("{}{path}", self.endpoint),
                Some(same) if same.starts_with(&format!("{}/", self.endpoint)) => at = same,
                _ => break,
            }
        }
        Err(bad("the answer has no tag to check the file with".into()))
    }

    /// Fills `partial` up to `size` bytes, continuing what is there and what breaks.
    fn transfer(&self, url: &str, partial: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut pause = self.pause;
        for attempt in 1..=ATTEMPTS {
            match self.attempt(url, partial, size, progress)? {
                Attempt::Whole => return Ok(()),
                Attempt::Broken(reason) if attempt == ATTEMPTS => {
                    let done = std::fs::metadata(partial).map_or(0, |m| m.len());
                    let reason = format!(
                        "{url}: {reason}, at {done} of {size} bytes after {ATTEMPTS} attempts; \
                         what came is kept and continued next time"
                    );
                    return Err(Error::file(partial, reason));
                }
                Attempt::Broken(_) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        Ok(())
    }

    fn attempt(&self, url: &str, partial: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<Attempt> {
        let io = |e| Error::io(partial, e);
        let mut file = OpenOptions::new().create(true).append(true).open(partial).map_err(io)?;
        let mut done = file.metadata().map_err(io)?.len();
        if done > size {
            file.set_len(0).map_err(io)?;
            done = 0;
        }
        progress(done);
        if done == size {
            return Ok(Attempt::Whole);
        }
        let mut request = self.fetching.get(url);
        if done > 0 {
            request = request.header(header::RANGE, format!("bytes={done}-"));
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(e) => return Ok(Attempt::Broken(e.to_string())),
        };
        match response.status().as_u16() {
            206 if text(&response, "content-range").is_some_and(|r| r.starts_with(&format!("bytes {done}-"))) => {}
            // The whole file instead of the rest, or a rest that begins elsewhere: start again.
            200 => {
                file.set_len(0).map_err(io)?;
                done = 0;
            }
            206 | 416 => {
                file.set_len(0).map_err(io)?;
                return Ok(Attempt::Broken("the server did not continue where the file stops".into()));
            }
            status => match refusal(status) {
                Some(reason) if status < 500 && status != 429 => {
                    return Err(Error::file(partial, format!("{url}: {reason}")));
                }
                _ => return Ok(Attempt::Broken(format!("the server answered {status}"))),
            },
        }
        // One byte more than is right is enough to see that it is wrong.
        let mut body = response.into_body().into_reader().take(size - done + 1);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) => return Ok(Attempt::Broken(e.to_string())),
            };
            file.write_all(buffer.get(..read).unwrap_or_default()).map_err(io)?;
            done += read as u64;
            progress(done.min(size));
        }
        match done.cmp(&size) {
            std::cmp::Ordering::Less => Ok(Attempt::Broken("the connection ended".into())),
            std::cmp::Ordering::Equal => Ok(Attempt::Whole),
            std::cmp::Ordering::Greater => {
                file.set_len(0).map_err(io)?;
                Err(Error::file(partial, format!("{url}: longer than the {size} bytes it should have")))
            }
        }
    }
}

enum Attempt {
    Whole,
    Broken(String),
}

struct Described {
    etag: String,
    size: u64,
}

fn text<T>(response: &Response<T>, header: &str) -> Option<String> {
    response.headers().get(header)?.to_str().ok().map(str::to_string)
}

/// Why a status is no answer.
fn refusal(status: u16) -> Option<String> {
    match status {
        200..=399 => None,
        401 | 403 => Some(format!("refused ({status}): unknown, private or gated; for the latter set HF_TOKEN")),
        404 => Some("not found (404)".into()),
        other => Some(format!("the server answered {other}")),
    }
}

/// The tag of a large file is its SHA-256; that of a small one is git's, which is not checked beyond the size.
fn check(partial: &Path, etag: &str) -> Result<()> {
    if etag.len() != 64 || !etag.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut sha = Sha256::new();
    let mut file = File::open(partial).map_err(|e| Error::io(partial, e))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(partial, e))? {
            0 => break,
            read => sha.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    let found: String = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(etag) {
        return Ok(());
    }
    // Continuing a wrong file would keep it wrong.
    std::fs::remove_file(partial).map_err(|e| Error::io(partial, e))?;
    Err(Error::file(partial, format!("wrong checksum: SHA-256 {found}, expected {etag}; removed, download again")))
}

/// Links a blob into a snapshot.
#[cfg(unix)]
fn place(_blob: &Path, etag: &str, link: &Path) -> std::io::Result<()> {
    let target = Path::new("..").join("..").join("blobs").join(etag);
    match std::os::unix::fs::symlink(target, link) {
        // A link whose blob was missing until now.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Moves a blob into a snapshot: links need privileges here.
#[cfg(not(unix))]
fn place(blob: &Path, _etag: &str, link: &Path) -> std::io::Result<()> {
    std::fs::rename(blob, link)
}
