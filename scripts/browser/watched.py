"""A page of which every error and every request is noted, and what axe-core says of it."""

import time

# A busy machine is slow; a page that does nothing fails all the same.
PATIENCE_SECS = 60


class Watched:
    def __init__(self, context, allowed):
        self.page = context.new_page()
        self.faults = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda sent: sent.url.startswith(allowed) or self.faults.append(f"asked for {sent.url}"))

    def expect(self, true, what):
        if not true:
            self.faults.append(what)

    def until(self, condition):
        """Waits for a condition in JavaScript. Playwright's own way of waiting needs `eval`, which the page forbids."""
        end = time.monotonic() + PATIENCE_SECS
        while not self.page.evaluate(f"() => Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is still not so; {self.faults}")
            time.sleep(0.1)

    def expect_to_fit(self):
        """Nothing is wider than the window."""
        across = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.expect(across <= 0, f"the page is {across} px too wide")

    def expect_accessible(self, context, axe, what):
        # By the protocol, as the page's own policy lets no script in.
        context.new_cdp_session(self.page).send("Runtime.evaluate", {"expression": axe})
        for found in self.page.evaluate("async () => (await axe.run(document)).violations"):
            if found["impact"] in ("serious", "critical"):
                nodes = "; ".join(str(node["target"]) for node in found["nodes"][:3])
                self.faults.append(f"{what}: {found['id']}: {found['help']} at {nodes}")
