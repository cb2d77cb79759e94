"""The page in a real browser: Playwright's client drives Debian's Chromium."""
