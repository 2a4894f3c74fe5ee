"""Livestream audio: sound -> 20 s windows -> scores of each -> the state that consecutive windows add up to."""
