"""LibreTranslate's routes: ``/translate``, ``/detect``, ``/languages``."""
