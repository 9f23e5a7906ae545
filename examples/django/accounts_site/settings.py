"""The settings; what concerns the banks comes from the variables of the command."""

import os
from pathlib import Path
from urllib.parse import urlsplit

AUTHORIZE_URL = os.environ["BLINK_AUTHORIZE_URL"]
ACCOUNTS_URL = os.environ["BLINK_ACCOUNTS_URL"]
REDIRECT_URI = os.environ.get("BLINK_REDIRECT_URI", "http://127.0.0.1:8000/callback")
STORE = os.environ["BLINK_STORE"]
KEYS_FILE = os.environ.get("BLINK_STORE_KEYS_FILE") or f"{STORE}.keys"
# The banks of the sandbox. Yours are in bLink's directory.
BANKS = {"IIDX00001": "Musterbank Streng", "IIDX00002": "Musterbank Mild"}

SECRET_KEY = os.environ["APP_SECRET"]
ALLOWED_HOSTS = [urlsplit(REDIRECT_URI).hostname]
ROOT_URLCONF = "accounts_site.urls"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "accounts_site.middleware.PageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
        "OPTIONS": {"context_processors": ["accounts_site.middleware.of_every_page"]},
    }
]

# Sessions, and the logins that wait for a callback. All processes of one machine share the folder.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": os.environ.get("APP_CACHE") or Path(KEYS_FILE).with_name("cache"),
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SESSION_COOKIE_AGE = 3600
# Lax: the bank's redirect comes from another site, and with Strict it would have no session.
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = REDIRECT_URI.startswith("https:")
CSRF_USE_SESSIONS = True
# Not no-referrer: browsers then send `Origin: null` with a form, which Django refuses. The
# callback, whose address has the code, sets no-referrer itself.
SECURE_REFERRER_POLICY = "same-origin"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    # The access log of runserver has the query of the callback, and so the code.
    "loggers": {"django": {"level": "INFO"}, "django.server": {"level": "CRITICAL"}},
}
