"""``python -m miniature.teach``: draw the corpus, teach autoencoder, judges and transformer, write the folders. One GPU, half an hour."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from miniature.teach import accept, assemble, corpus, encoders, flow, vae
from miniature.teach.tokenizers import learn_clip, learn_t5

WORDINGS = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m miniature.teach", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("var/miniature"), help="folder for flux/, clip/, dino/, report.json and pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--identities", type=int, default=6400, help="identities of each kind in the transformer's corpus")
    parser.add_argument("--scenes", type=int, default=8, help="pictures of each identity")
    parser.add_argument("--judge-identities", type=int, default=2400, help="identities of each kind in the judges' corpus (multiple of 16)")
    parser.add_argument("--minutes", type=float, nargs=5, default=[3.3, 1, 2.5, 10, 2.2], metavar=("VAE", "CLIP", "DINO", "FLOW", "DISTIL"))
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--max-steps", type=int, default=None, help="cap on the steps of every stage (a rehearsal)")
    parser.add_argument("--peak", type=float, default=1.2e-3, help="highest learning rate of the flow stage")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--resume", type=Path, default=None, help="go on from the folders of an earlier run: only flow and distillation are taught"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    if args.device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # its backward is broken on Hopper (pytorch#196678)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def done(stage: str) -> None:
        nonlocal began
        seconds[stage] = round(time.monotonic() - began, 1)
        print(f"{stage}: {seconds[stage]} s", flush=True)
        began = time.monotonic()

    base = corpus.draw_base(args.identities, args.scenes, args.device)
    done(f"draw base ({len(base)} pictures)")
    texts = corpus.captions_of(base, WORDINGS)
    if args.resume:
        taught = assemble.read(args.resume, args.device)
        done("captions, earlier weights")
    else:
        taught = teach_parts(args, base, texts, done)
    autoencoder, clip, clip_tokenizer, t5_tokenizer = taught.vae, taught.clip, taught.clip_tokenizer, taught.t5_tokenizer
    assemble.write_encoders(args.out, clip, clip_tokenizer, taught.dino)
    t5_words, clip_words = _tokens(t5_tokenizer, texts, args.device), _tokens(clip_tokenizer, texts, args.device)
    empty_words, empty_clip = _tokens(t5_tokenizer, [""], args.device, 1)[0, 0], _tokens(clip_tokenizer, [""], args.device, 1)
    lessons = flow.Lessons(
        latents=vae.encode_all(autoencoder, base.pictures),
        words=t5_words,
        pooled=encoders.pooled(clip, clip_words),
        empty_words=empty_words,
        empty_pooled=encoders.pooled(clip, empty_clip)[0, 0],
        scenes_each=args.scenes,
        subject=base.subject.flatten(1),
        factors=base.factors,
        kind=base.kind,
    )
    done("latents")

    def write(average: flow.Average, name: str) -> None:
        averaged = flow.untaught(len(t5_tokenizer), args.device)
        average.copy_to(averaged.parameters())
        pipe = assemble.pipeline(averaged, autoencoder, clip, clip_tokenizer, t5_tokenizer)
        assemble.write_flux(args.out / ("flux" if name == "distilled" else "undistilled"), pipe)
        accept.contact_sheets(pipe, args.out, name, args.device)

    flux = taught.flux or flow.untaught(len(t5_tokenizer), args.device)
    average = flow.teach_flow(
        flux,
        lessons,
        args.minutes[3],
        args.batch,
        args.peak,
        compiled=args.device == "cuda" and not args.no_compile,
        max_steps=args.max_steps,
    )
    done("flow")
    write(average, "flow")
    average.copy_to(flux.parameters())
    average = flow.distil_guidance(flux, lessons, args.minutes[4], args.batch * 2 // 3, max_steps=args.max_steps)
    done("distil")
    write(average, "distilled")
    report = accept.judge(args.out, autoencoder, args.device)
    report |= {"seconds": seconds, "arguments": {k: str(v) for k, v in vars(args).items() if k != "out"}, "torch": torch.__version__}
    if args.device == "cuda":
        report["hardware"] = torch.cuda.get_device_name()
        report["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    (args.out / "report.json").write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2), flush=True)


def teach_parts(args: argparse.Namespace, base: corpus.Corpus, texts: list[str], done: Callable[[str], None]) -> assemble.Taught:
    """Tokenizers, autoencoder and the two judges."""
    judged = corpus.draw_for_encoders(args.judge_identities, args.scenes, args.device)
    done(f"draw for encoders ({len(judged)} pictures)")
    judged_texts = corpus.captions_of(judged, WORDINGS, seed=4)
    clip_tokenizer, t5_tokenizer = learn_clip(texts[:100_000]), learn_t5(texts[:100_000])
    clip_words = [_tokens(clip_tokenizer, t, args.device) for t in (texts, judged_texts)]
    done("captions and tokens")
    vae_minutes, clip_minutes, dino_minutes = args.minutes[:3]
    autoencoder = vae.teach_vae(base.pictures, vae_minutes, max_steps=args.max_steps)
    vae.measure_latents(autoencoder, base.pictures)
    done("vae")
    clip = encoders.teach_clip([base, judged], clip_words, clip_tokenizer, clip_minutes, max_steps=args.max_steps)
    done("clip")
    dino = encoders.teach_dino(judged, dino_minutes, max_steps=args.max_steps)
    done("dino")
    return assemble.Taught(autoencoder, clip, dino, clip_tokenizer, t5_tokenizer)


def _tokens(tokenizer, texts: list[str], device: str, wordings: int = WORDINGS) -> Tensor:
    rows = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)["input_ids"]
    return torch.tensor(rows, dtype=torch.int16, device=device).view(len(texts) // wordings, wordings, -1)


if __name__ == "__main__":
    main()
