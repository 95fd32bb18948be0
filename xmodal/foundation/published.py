"""What is known of published files that are many: revisions, bytes and sha256, where two places or more agree on them."""

# Revision, bytes of the weights and their sha256, where two places or more agree on them.
CLIP: dict[str, tuple[str, int, dict[str, str]]] = {
    "vit-b-32": (
        "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", 605_247_071,
        {"pytorch_model.bin": "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"},
    ),
    "vit-l-14": (
        "32bd64288804d66eefd0ccbe215aa642df71cc41", 1_710_540_580,
        {"model.safetensors": "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"},
    ),
    "open_clip:ViT-B-32/laion2b_s34b_b79k": (
        "1a25a446712ba5ee05982a381eed697ef9b435cf", 605_143_316,
        {"open_clip_model.safetensors": "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6"},
    ),
    "open_clip:ViT-H-14/laion2b_s32b_b79k": (
        "1c2b8495b28150b8a4922ee1c8edee224c284c0c", 3_944_517_836,
        {
            "open_clip_model.safetensors": "0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
            "open_clip_pytorch_model.bin": "9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4",
        },
    ),
}  # fmt: skip

# Not Microsoft's: what comes from there is told by its sha256.
BEATS_MIRROR = "https://huggingface.co/camenduru/beats/resolve/main"
BEATS = {
    "BEATs_iter3_plus_AS2M": "d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34",
    "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1": "7f9362028ac6e5c049e8dc314d87e90e4f82a15a8e472deb56af55d7f9b34d6a",
    "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2": "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c",
    "BEATs_iter1": "b5f4cc10bcbff63a437c695f33389e6411513b3f7d5cdae8fb62b5005f4a1fcd",
    "BEATs_iter1_finetuned_on_AS2M_cpt1": "e0e739e3670bfbb93c51adefb1d02981621397addc979d392aefd3dc53c22cab",
    "BEATs_iter1_finetuned_on_AS2M_cpt2": "2f3a7b65ab232c4f75570d4d17e21e5ebc34b3c40fe1a074f27d199e81354960",
    "BEATs_iter2": "81a23e00aa4878d7e8627ded87ea697fb347c8ceffed21223e0398ed0fa34ad8",
    "BEATs_iter2_finetuned_on_AS2M_cpt1": "3a120810c0f6dbfd50a7f48dc03ed077971a50cb2dbb7999695d5c700d03da45",
    "BEATs_iter2_finetuned_on_AS2M_cpt2": "08363b9b5eabeb47b0879c84145b27c603e7e50c116a633fa5b98ade119fc354",
    "BEATs_iter3": "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34",
    "BEATs_iter3_finetuned_on_AS2M_cpt1": "379369a41d0b3749f746cdcea8036de506cb3aedecce84de7db0a75fda2a4fe7",
    "BEATs_iter3_finetuned_on_AS2M_cpt2": "08374f1cbd49143900b351bc81cd307de386a11f8e609eb3862634e992068b55",
    "BEATs_iter3_plus_AS20K": "8008b126bb5e8ab08912c60c58847ed676d32e64a5864c922356b7c2522fb2f8",
    "BEATs_iter3_plus_AS20K_finetuned_on_AS2M_cpt1": "2c366278dcf835e9bdefad4f7147b0edba4b940c59146fd05dc49a401fa82ff8",
    "BEATs_iter3_plus_AS20K_finetuned_on_AS2M_cpt2": "6d28b32bfa7bcaaf84ab834186581c2a360c6669e372e808d054cf0ef4d5c2d2",
}

# sha256 of UNet, text encoder and VAE, where two places or more agree on them; nobody has seen a second copy of 1.4's.
_TEXT_2, _VAE_2 = (
    "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c",
    "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
)
STABLE_DIFFUSION: dict[str, tuple[str, int, dict[str, str]]] = {
    "CompVis/stable-diffusion-v1-4": ("133a221b8aa7292a167afc5127cb63fb5005638b", 0, {}),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", 3_438_167_540 + 492_265_874 + 334_643_276,
        {
            "unet/diffusion_pytorch_model.safetensors": "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
            "text_encoder/model.safetensors": "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334",
            "vae/diffusion_pytorch_model.safetensors": "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
        },
    ),
    "stabilityai/stable-diffusion-2-1": (
        "", 3_463_726_498 + 1_361_597_018 + 334_643_276,
        {
            "unet/diffusion_pytorch_model.safetensors": "1238522277c48923ff2751e238f2742c562e45643f3d50cc93d163cb30638b0c",
            "text_encoder/model.safetensors": _TEXT_2, "vae/diffusion_pytorch_model.safetensors": _VAE_2,
        },
    ),
    "stabilityai/stable-diffusion-2-1-base": (
        "", 3_463_726_498 + 1_361_597_018 + 334_643_276,
        {
            "unet/diffusion_pytorch_model.safetensors": "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
            "text_encoder/model.safetensors": _TEXT_2, "vae/diffusion_pytorch_model.safetensors": _VAE_2,
        },
    ),
}  # fmt: skip
