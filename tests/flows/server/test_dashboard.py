"""The dashboard in a browser: a person signs in, starts `compress` by its form, and reads the report.

Each step leaves a picture in the session's temporary folder; `make pictures` puts them into `docs/images`.
"""

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from quantmill.recipe.recipe import Recipe
from tests.debian import debian_package
from tests.service import Embedded, Service

pytestmark = pytest.mark.slow

_LOGIN = "admin:correct-horse-battery"
_PATIENCE_MS = 180_000  # two cores may have other work
_PICTURE_BYTES = 150_000
_POOLS = [{"name": "cpu", "memory": "16GB", "threads": 1}]
# Asked for its configuration whatever the settings say; it gets no event where telemetry is off.
_ASKED_BY_THE_PAGES = {"sr-client-cfg.amplitude.com"}
MODEL = "tiny-llama"
VARIANTS = [
    {"method": "bitsandbytes", "type": ["nf4"]},
    {"method": "gguf", "type": ["Q8_0", "Q4_K_M"]},
    {"method": "gptq", "bits": [4]},
]
NAMES = ("bitsandbytes-nf4", "gguf-q8_0", "gguf-q4_k_m", "gptq-4bit-g64")
MADE = "gguf-q4_k_m"  # the others are in the store already

Keep = Callable[[str], None]


@pytest.fixture(scope="module")
def service(embedded: Embedded, empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks for a password, with all that the embedded run made."""
    login = {"PREFECT_SERVER_API_AUTH_STRING": _LOGIN, "PREFECT_API_AUTH_STRING": _LOGIN}
    made = Service(tmp_path_factory.mktemp("dashboard") / "service", _POOLS, **login)
    try:
        embedded.share(made.home)
        shutil.copytree(empty_mlflow.parent, made.home / "mlflow")
        made.start_server()
        done = made.quantmill("bootstrap")
        assert done.returncode == 0, done.stdout + done.stderr
        made.start_worker("cpu")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def chromium() -> Path:
    found = debian_package("chromium", "/usr/bin/chromium")
    if found is None:
        pytest.skip("no Chromium: nobody looked at the dashboard")
    return found


@pytest.fixture
def page(chromium: Path, service: Service) -> Iterator[Page]:
    """A page that knows no password yet and asks nobody but the service."""
    expect.set_options(timeout=_PATIENCE_MS)
    asked = set[str]()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=_PATIENCE_MS)
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, timezone_id="UTC", reduced_motion="reduce"
        )
        context.set_default_timeout(_PATIENCE_MS)
        context.on("request", lambda request: asked.add(urlsplit(request.url).hostname or "data"))
        yield context.new_page()
        browser.close()
    assert asked - {"127.0.0.1", "data"} <= _ASKED_BY_THE_PAGES


@pytest.fixture
def keep(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Keep:
    """Keeps a picture of what is on the screen."""
    folder = tmp_path_factory.getbasetemp() / "pictures"
    folder.mkdir(exist_ok=True)

    def save(name: str) -> None:
        page.wait_for_load_state("networkidle")
        shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
        path = folder / f"dashboard-{name}.png"
        shot.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < _PICTURE_BYTES

    return save


def field(where: Page | Locator, title: str) -> Locator:
    """Return the form's fields of a title below `where`, each with its words and its control."""
    own = f'xpath=./div/div/label[.="{title}" or .="{title} (Optional)"]'
    page = where if isinstance(where, Page) else where.page
    return where.locator("div.group", has=page.locator(own))


def write(where: Locator, title: str, value: object) -> None:
    box = field(where, title).locator("textarea, input")
    box.fill(str(value))
    expect(box).to_have_value(str(value))


def choose(of: Locator, value: object) -> None:
    """Choose a value from a menu; one of several stays open until it is closed."""
    of.get_by_role("button", name=re.compile("^Select ")).click()
    of.page.get_by_role("option", name=str(value), exact=True).click()
    of.page.keyboard.press("Escape")
    expect(of.page.get_by_role("option")).to_have_count(0)
    expect(of).to_contain_text(str(value))


def sign_in(page: Page, service: Service, keep: Keep) -> None:
    page.goto(service.url.removesuffix("/api"))
    password = page.get_by_placeholder("admin:pass")
    password.fill("admin:admin")
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_text("Invalid credentials")).to_be_visible()
    password.fill(_LOGIN)
    page.get_by_role("button", name="Login").click()
    page.get_by_role("link", name="Deployments").click()
    expect(page.get_by_role("link", name="compress", exact=True).first).to_be_visible()
    keep("deployments")


def open_form(page: Page) -> None:
    page.get_by_role("link", name="compress", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(field(page, "Gates")).to_be_visible()


def fill_in(page: Page, recipe: dict[str, Any], keep: Keep) -> None:
    """Turn the recipe that the form proposes into one of ours."""
    write(field(page, "Model"), "Source", recipe["model"]["source"])
    variants = field(page, "Variants")
    kinds = field(variants, "Type").first
    kinds.get_by_role("button", name="Remove int8 tag").click()
    choose(kinds, "nf4")
    variants.get_by_role("button", name="Add item").last.click()
    method = field(variants, "Method").last
    method.get_by_role("button", name="Select Method").click()
    keep("menu")
    page.keyboard.press("Escape")
    choose(method, "gptq")
    choose(field(variants, "Bits").last, 4)
    write(field(page, "Publish"), "Name", MODEL)
    for title in ("Calibration", "Evaluation"):
        for name in ("samples", "sequence_length"):
            write(field(page, title), name.replace("_", " ").capitalize(), recipe[title.lower()][name])
    write(field(page, "Gates"), "Most perplexity, over the baseline's", recipe["gates"]["max_perplexity_ratio"])
    write(field(page, "Gates"), "Most mean KL divergence", recipe["gates"]["max_mean_kl"])


def watch(page: Page, service: Service, keep: Keep) -> None:
    """See the run and its variant at work, then both done.

    The pages ask the server every five seconds by themselves.
    """
    expect(page.get_by_label("breadcrumb").get_by_text(MODEL, exact=True)).to_be_visible()
    page.get_by_role("tab", name="Subflow Runs").click()
    service.wait_for_start(f"artifact {MADE}")
    page.reload()
    expect(page.locator("main").get_by_text("Running", exact=True)).to_have_count(2)
    keep("running")
    service.order(MADE)
    page.get_by_role("link", name=MADE, exact=True).click()
    expect(page.locator("main").get_by_text("Completed", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text(f"{MADE}: score window 4/4")).to_be_visible()
    keep("variant")
    page.get_by_role("link", name=f"Parent Run {MODEL}").click()
    expect(page.locator("main").get_by_text("Completed", exact=True).first).to_be_visible()


def is_the_table(page: Page) -> None:
    rows = [re.compile("^variant"), *(re.compile(f"^{name}✓.accepted") for name in NAMES)]
    expect(page.get_by_role("row")).to_have_text(rows)


def is_the_plot(page: Page) -> None:
    expect(page.get_by_alt_text("artifact-image")).to_have_js_property("naturalWidth", 1500)


def is_the_report(page: Page) -> None:
    expect(page.get_by_role("heading", name=MODEL, exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name=MADE)).to_be_visible()
    expect(page.get_by_text(f"best size: {MADE}, fewest bytes")).to_be_visible()


@pytest.mark.parametrize("option", [{"iteratoins": [200]}, {"iterations": ["many"]}])
def test_what_the_form_leaves_out_is_checked_by_the_server(service: Service, option: dict[str, Any]) -> None:
    recipe = {"model": {"source": "./m"}, "variants": [{"method": "autoround", **option}]}
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        service.trigger(recipe)
    assert service.runs("compress") == []


def test_a_model_is_compressed_in_the_browser(service: Service, embedded: Embedded, page: Page, keep: Keep) -> None:
    recipe = embedded.recipe | {"variants": VARIANTS, "publish": {"model": MODEL}}
    service.order(MADE, "wait")
    sign_in(page, service, keep)
    open_form(page)
    fill_in(page, recipe, keep)
    field(page, "Model").scroll_into_view_if_needed()
    keep("form")
    with page.expect_response("**/create_flow_run") as answer:
        page.get_by_role("button", name="Submit").click()
    assert answer.value.status == 201, answer.value.text()
    sent = Recipe.model_validate(answer.value.request.post_data_json["parameters"]["recipe"])
    assert sent == Recipe.model_validate(recipe)

    page.get_by_role("link", name="View run").click()
    watch(page, service, keep)
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("4 of 4 variants of tiny-llama accepted")).to_have_count(2)  # of the table and the report
    expect(page.get_by_text(f"{MODEL} in {service.home / 'store'}")).to_be_visible()
    keep("artifacts")
    for kind, name, check in (
        ("variants", "table", is_the_table),
        ("pareto", "plot", is_the_plot),
        ("report", "report", is_the_report),
    ):
        page.get_by_role("link").filter(has_text=f"{kind}-{MODEL}").click()
        page.get_by_test_id(re.compile("^timeline-card-")).get_by_role("link").first.click()
        check(page)
        keep(name)
        page.go_back()
        page.go_back()
