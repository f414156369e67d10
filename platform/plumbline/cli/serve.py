"""`plumb serve`: a policy behind KServe's Python server. Stops on SIGTERM."""

import click

from plumbline.cli.options import PORT


@click.command()
@click.argument("policy")
@click.option("--name", help="Model name in requests (default: the directory's).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8080, show_default=True)
@click.option("--leg", type=click.Choice(["reference", "aligned"]), help="Label of its metrics.")
def serve(policy: str, name: str | None, host: str, port: int, leg: str | None) -> None:
    """Serve POLICY with KServe's Python server, OpenAI-compatible at /openai/v1, streaming too."""
    from plumbline.policies.files import resolve
    from plumbline.serving.predictor import read_policies
    from plumbline.serving.predictor import serve as run
    from plumbline.sockets import listen

    policies = read_policies([policy], name)
    resolve(policy.rpartition("=")[2])
    bound = listen(host, port)
    url = f"http://{host}:{bound.getsockname()[1]}/openai/v1"
    click.echo(f"serving {', '.join(policies)} at {url} (once loaded); Ctrl-C stops it", err=True)
    run(policies, bound, leg=leg)
